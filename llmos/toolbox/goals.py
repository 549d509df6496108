"""Standing goals: who is to be fast, and who yields to it. Set, listed and taken back like any change.

    goal.add    protect=api against=build     judged once, when it is set: it names whose limits it may change
    goal.list   what is kept, and how it stands            goal.remove   the limits it set are given back

Goals are files, which the daemon keeps to (`goalkeeping`); so they survive it. Names are looked up again
and again: who is called `build` tomorrow yields, too. A goal acts with its owner's rights and reaches their
own processes alone, whatever else has the name.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from llmos import paths
from llmos.errors import UsageError
from llmos.messages import Caller, Change, Changed, Effects, JsonObject, Message, Observe
from llmos.shelf import Shelf, check_share
from llmos.toolbox import targets
from llmos.toolbox.context import Args, Context, Draft, Pair, ProcessInfo
from llmos.toolbox.values import shown

MAX_GOALS = 50
MAX_GOALS_OF_ONE = 10  # of one user but root
_NAME_CHARS = 80


class Goal(Message):
    """`against` is empty for everything else of the owner's that takes much CPU."""

    id: str
    uid: int
    gid: int
    protect: str
    against: str = ""
    created: float

    @property
    def told(self) -> str:
        return f"keep {shown(self.against) or 'everything else'} from slowing {shown(self.protect)} down"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a goal stands, as its loop saw it last."""

    protected: tuple[int, ...] = ()
    yielding: tuple[int, ...] = ()
    waited_percent: float = 0.0
    share_percent: float = 100.0
    behind: bool = False
    trouble: str = ""

    @property
    def told(self) -> str:
        if self.trouble:
            return self.trouble
        if not self.protected:
            return "waits: what is protected does not run"
        if not self.yielding:
            return f"waits: nobody is in the way of {_pids(self.protected)}"
        if not self.behind:
            return f"{_pids(self.yielding)} may use everything: {_pids(self.protected)} is not in need"
        how = f"{_pids(self.yielding)} comes last"
        if self.share_percent < 100:
            how += f" and may use {self.share_percent:.0f} % of the CPUs"
        return f"{how}; {_pids(self.protected)} waited {self.waited_percent:.0f} % of its time"


STANDING: dict[str, Standing] = {}  # by id; written by the loop, read by who asks


def _pids(pids: tuple[int, ...]) -> str:
    more = f" and {len(pids) - 3} more" if len(pids) > 3 else ""
    return ", ".join(map(str, pids[:3])) + more


def shelf() -> Shelf[Goal]:
    return Shelf(paths.state_dir() / "goals", Goal, MAX_GOALS)


# --- who is meant ------------------------------------------------------------------------------------


def named(text: str, context: Context) -> tuple[ProcessInfo, ...]:
    """The owner's own processes that this means now; none is no error: they may come later."""
    try:
        found = targets.resolve(text, context, every=True, tool="goal.add").roots
    except UsageError:
        return ()
    return tuple(targets.heads([one for one in found if one.uid == context.uid]))


# --- tools -------------------------------------------------------------------------------------------


def plan_add(args: Args, context: Context) -> Draft:
    protect, against = (_name(args, key) for key in ("protect", "against"))
    if not protect:
        raise UsageError("goal.add: argument `protect`: it is empty", "Say who is to stay fast.")
    if protect.casefold() == against.casefold():
        raise UsageError("goal.add: it cannot be protected from itself", "Name two different programs.")
    goal = Goal(id=f"g{os.urandom(3).hex()}", uid=context.uid, gid=0, protect=protect, against=against,
                created=time.time())  # fmt: skip
    now = named(against, context) if against else ()
    if set(now) & set(named(protect, context)):
        raise UsageError("goal.add: both names mean the same process", "Name them by pid, or more exactly.")
    change = Change(changer="goal.add", args={"goal": goal.model_dump()}, shows=goal.told)
    touched = (f"goal:{shown(against) or 'everything else'}", *(f"pid:{one.pid}" for one in now))
    return Draft((change,), Effects(resources=touched))


def _name(args: Args, key: str) -> str:
    text = (args[key] or "").strip()
    if len(text) > _NAME_CHARS:
        raise UsageError(f"goal.add: argument `{key}`: it is too long", "Name a program, or a pid.")
    return text


def add(args: JsonObject, caller: Caller) -> Changed:
    goal = Goal.model_validate(args["goal"]).model_copy(update={"uid": caller.uid, "gid": caller.gid})
    if caller.uid != 0:
        check_share("goals", (other.uid for other in shelf().all().values()), goal.uid, MAX_GOALS_OF_ONE)
    shelf().put(goal.id, goal)
    text = f"Goal {goal.id} is kept from now on: {goal.told}. See: llmos goals\n"
    back = Change(changer="goal.remove", args={"id": goal.id}, shows=f"give the goal {goal.id} up")
    return Changed(text=text, reverse=(back,))


def plan_remove(args: Args, context: Context) -> Draft:
    """Goals lie with the daemon's own state, so whether there is such a one is found when it is done."""
    goal_id = args["id"].strip()
    change = Change(changer="goal.remove", args={"id": goal_id}, shows=f"give the goal {shown(goal_id)} up")
    return Draft((change,), Effects(resources=(f"goal:{shown(goal_id)}",)))


def remove(args: JsonObject, caller: Caller) -> Changed:
    goal = _own(str(args["id"]), caller)
    shelf().remove(goal.id)
    text = f"Goal {goal.id} is given up; the limits it set are taken off within seconds.\n"
    back = Change(changer="goal.add", args={"goal": goal.model_dump()}, shows=goal.told)
    return Changed(text=text, reverse=(back,))


def _own(goal_id: str, caller: Caller) -> Goal:
    found = shelf().all().get(goal_id)
    if found is None or caller.uid not in (0, found.uid):
        raise UsageError(f"there is no goal {shown(goal_id)[:40]!r}", "See: llmos goals")
    return found


def plan_list(args: Args, context: Context) -> Draft:
    told = {"uid": context.uid, **({"json": True} if args["json"] else {})}
    return Draft((Observe(observer="goal.list", args=told),), command="goals")


def listed(args: JsonObject) -> str:
    uid = int(args["uid"])
    found = [goal for goal in shelf().all().values() if uid in (0, goal.uid)]
    if args.get("json"):
        return json.dumps({"goals": [_as_json(goal) for goal in found]}, ensure_ascii=False) + "\n"
    if not found:
        return 'There is no goal. Set one: llmos "keep the build from slowing the api down"\n'
    return "".join(f"{goal.id}  {goal.told}\n    {standing(goal).told}\n" for goal in found)


def _as_json(goal: Goal) -> JsonObject:
    return {**goal.model_dump(), "standing": asdict(standing(goal)), "told": standing(goal).told}


def standing(goal: Goal) -> Standing:
    return STANDING.get(goal.id, Standing(trouble="is looked at for the first time"))


PAIRS = {"goal.add": Pair(plan_add), "goal.remove": Pair(plan_remove), "goal.list": Pair(plan_list)}
OBSERVERS: dict[str, Callable[[JsonObject], str]] = {"goal.list": listed}
CHANGERS: Mapping[str, Callable[[JsonObject, Caller], Changed]] = {"goal.add": add, "goal.remove": remove}
