"""The permit: the only thing `guard.spawn` accepts, and only `guard.gate` mints it.

Ungated execution is thereby a type error; the seal makes it a run-time error too, and the floor
test makes any other caller of `mint` a failing test. It is a guard against our own mistakes, not
against hostile code inside the broker.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from llmos.messages import Caller, Plan, Verdict

_SEAL = object()


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to carry out one plan, with exactly the grants named here."""

    plan: Plan
    verdict: Verdict
    caller: Caller
    request_id: str
    cwd: str
    write_roots: tuple[str, ...]  # what the sandbox may make writable; empty for a read-only plan
    network: bool  # all of it, unless `hosts` names
    data: bytes | None = None
    stage: str = ""  # write on copy-on-write views kept in this folder, not on the write roots themselves
    hidden: tuple[str, ...] = ()  # further places no command may see, named by a policy; absolute
    hosts: tuple[str, ...] = ()  # the only machines the network leads to
    seal: object = field(default=None, repr=False)

    def __post_init__(self) -> None:
        assert self.seal is _SEAL, "a Permit is minted by guard.gate only"


def mint(
    plan: Plan,
    verdict: Verdict,
    caller: Caller,
    *,
    request_id: str,
    cwd: str,
    write_roots: tuple[str, ...] = (),
    network: bool = False,
    data: bytes | None = None,
    stage: str = "",
    hidden: tuple[str, ...] = (),
    hosts: tuple[str, ...] = (),
) -> Permit:
    """Mint a permit. For `guard.gate` alone."""
    return Permit(
        plan, verdict, caller, request_id, cwd, write_roots, network, data, stage, hidden, hosts, _SEAL
    )
