"""What could be better on a board, each with the command to type; nothing here stops it."""

from __future__ import annotations

from typing import Final

from orchestrator.provision.survey import Survey

STEADY_GOVERNOR: Final = "performance"


def notes(survey: Survey, board: str) -> list[str]:
    """Advice in words, most useful first."""
    found = (_vcgencmd(survey), _governor(survey), _login_script(survey, board))
    return [note for note in found if note is not None]


def _vcgencmd(survey: Survey) -> str | None:
    lost = "throttling, the true clock and power cannot be read"
    if survey.vcgencmd == "refused":
        if "video" not in survey.groups:
            return (
                f"{survey.user} is not in the group video, so {lost}: type "
                f"`sudo usermod -aG video {survey.user}` on the board; it holds from the next "
                f"login and the next start of the agent"
            )
        return (
            f"vcgencmd is there but does not answer, so {lost}: look at `vcgencmd get_throttled` "
            f"on the board"
        )
    if not survey.vcgencmd and survey.model.startswith("Raspberry Pi"):
        return f"vcgencmd is missing, so {lost}: type `sudo apt install raspi-utils` on the board"
    return None


def _governor(survey: Survey) -> str | None:
    if not survey.governor or survey.governor == STEADY_GOVERNOR:
        return None
    command = (
        f"`echo {STEADY_GOVERNOR} | {'' if survey.governor_writable else 'sudo '}tee "
        f"/sys/devices/system/cpu/cpufreq/policy*/scaling_governor`"
    )
    return (
        f"its governor is '{survey.governor}', so the clock follows the load and short runs look "
        f"slower: type {command} on the board (it holds until the next start; it needs "
        f"{'no ' if survey.governor_writable else ''}root)"
    )


def _login_script(survey: Survey, board: str) -> str | None:
    if not survey.printed_at_login:
        return None
    return (
        f"a login script of {survey.user} prints something at every ssh command; that is skipped "
        f"here, but it breaks scp and sftp to {board}: put `case $- in *i*) ;; *) return;; esac` "
        f"at the top of ~/.bashrc"
    )
