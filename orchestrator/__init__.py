"""The host side: plans runs, reaches boards, records results and shows them."""
