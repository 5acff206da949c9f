"""rpyc's protocol stripped to what our calls need: there is no object of ours to walk from."""

from __future__ import annotations

from typing import Any, Final, cast

import rpyc
from rpyc.core import consts

CONFIG: Final[dict[str, Any]] = {
    "allow_safe_attrs": False,
    "allow_exposed_attrs": False,
    "allow_public_attrs": False,
    "allow_all_attrs": False,
    "allow_getattr": False,
    "allow_setattr": False,
    "allow_delattr": False,
    "allow_pickle": False,
    "import_custom_exceptions": False,
    "instantiate_custom_exceptions": False,
    "propagate_KeyboardInterrupt_locally": False,
    "include_local_traceback": False,
    "include_local_version": False,
    "log_exceptions": False,
    "sync_request_timeout": 5.0,
}
"""Everything is refused; `Connection` lets a service's methods through by name."""


class Foreign:
    """Stands for an object that the peer offered by reference; no use is made of it."""


class Connection(rpyc.Connection):  # type: ignore[misc] # rpyc ships no types
    """A connection whose peer can get and call the methods named in its root's METHODS only.

    Nothing is ever asked of the peer, so no call can wait for it.
    """

    @classmethod
    def _request_handlers(cls) -> dict[int, Any]:
        every = super()._request_handlers()
        kept = (
            consts.HANDLE_PING, consts.HANDLE_CLOSE, consts.HANDLE_GETROOT, consts.HANDLE_GETATTR,
            consts.HANDLE_CALL, consts.HANDLE_CALLATTR, consts.HANDLE_DEL, consts.HANDLE_INSPECT,
        )  # fmt: skip
        return {number: every[number] for number in kept}

    def _unbox(self, package: Any) -> Any:
        if package[0] == consts.LABEL_REMOTE_REF:
            return Foreign()  # rpyc's own would call back to the peer and build a class
        return super()._unbox(package)

    def _handle_getattr(self, obj: Any, name: Any) -> Any:
        root = cast(Any, self._local_root)
        if obj is not root or type(name) is not str or name not in root.METHODS:
            raise AttributeError("only the agent's methods can be had")
        return getattr(root, f"exposed_{name}")

    def _handle_call(self, obj: Any, args: Any, kwargs: Any = ()) -> Any:
        root = cast(Any, self._local_root)
        name = getattr(obj, "__name__", "").removeprefix("exposed_")
        if getattr(obj, "__self__", obj) is not root or name not in root.METHODS or kwargs:
            raise TypeError("only the agent's methods can be called, without keywords")
        return obj(*args)
