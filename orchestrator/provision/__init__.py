"""From a bare 64-bit Linux behind an ssh login to a board that measures.

    survey    one shell script asks the board what it is; unfit boards are refused in words
    wheels    agent/requirements.lock, downloaded on the host for exactly that board
    tree      those wheels as one archive, the same bytes every time, named by digest
    install   pushed (resumable), unpacked beside its place, probed, then switched to
    service   optionally a systemd user unit instead of a start on demand
    removal   and all of it gone again

The board needs no root, no internet, no pip and no compiler. What is put there lies in its home
as `env/<id>/`, laid out as a virtual environment around the board's own Python; `env/current`
is a link to the one in use, which `orchestrator.boards.ssh` looks for when it dials.
"""
