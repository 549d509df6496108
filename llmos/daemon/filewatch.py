"""Files and folders that triggers wait for: watchdog's events, by trigger.

A folder is watched for what changes in it (below it, if that is asked for); a file through its folder, so
that one that is replaced is still seen. Whether somebody may see changes there is looked at with their own
rights.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import ObservedWatch

from llmos.daemon.watching import SILENT_KINDS
from llmos.errors import CallFailed, UsageError
from llmos.guard.caller import as_caller
from llmos.messages import Caller

MAX_FOLDERS = 4096  # of one recursive watch: inotify wants one of its few watches for each

OnChange = Callable[[str, str], None]  # trigger id, path; called in a thread


class FileWatch:
    def __init__(self, on_change: OnChange) -> None:
        self._on_change = on_change
        self._watches: dict[str, tuple[_Handler, ObservedWatch]] = {}
        self._observer = Observer()
        self._observer.start()

    def stop(self) -> None:
        self._observer.stop()
        self._observer.join()

    def add(self, trigger_id: str, path: str, caller: Caller, *, recursive: bool) -> None:
        """Begin to watch for this trigger. Raises UsageError, CallFailed."""
        with as_caller(caller):
            target = os.path.realpath(path)
            if not os.path.lexists(target):
                raise UsageError(f"there is no {path}", "Name a file or a folder that exists.")
            if not os.access(target, os.R_OK):
                raise UsageError(f"{path} is not yours to read", "Name another.")
            is_folder = Path(target).is_dir()
            if recursive and is_folder and len(list(islice(os.walk(target), MAX_FOLDERS + 1))) > MAX_FOLDERS:
                raise UsageError(f"more than {MAX_FOLDERS} folders lie below {path}", "Watch a smaller one.")
        folder = target if is_folder else str(Path(target).parent)
        handler = _Handler(trigger_id, "" if is_folder else target, self._on_change)
        try:
            watch = self._observer.schedule(handler, folder, recursive=recursive and is_folder)
        except OSError as error:
            step = "Raise fs.inotify.max_user_watches, or watch less."
            raise CallFailed(f"{folder} cannot be watched: {error.strerror}", step) from error
        self._watches[trigger_id] = (handler, watch)

    def remove(self, trigger_id: str) -> None:
        handler, watch = self._watches.pop(trigger_id, (None, None))
        if handler is None or watch is None:
            return
        self._observer.remove_handler_for_watch(handler, watch)
        if all(other != watch for _, other in self._watches.values()):
            self._observer.unschedule(watch)


@dataclass(frozen=True)
class _Handler(FileSystemEventHandler):
    trigger_id: str
    file: str  # only this one; empty: all
    on_change: OnChange

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called by watchdog."""
        if event.event_type in SILENT_KINDS or (event.is_directory and event.event_type == "modified"):
            return
        for path in (str(event.src_path), str(event.dest_path)):
            if path and (not self.file or path == self.file):
                self.on_change(self.trigger_id, path)
