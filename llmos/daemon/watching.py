"""Notice when manifests or policies change, appear or go, and say so once it is quiet again.

A folder that is not there yet is noticed when it is made: its nearest existing parent is watched in
its stead. What changed is not looked at here, and nothing is read: who is told reads everything anew.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import ObservedWatch

log = logging.getLogger(__name__)

QUIET_S = 0.1  # an editor writes in several steps
SILENT_KINDS = frozenset({"opened", "closed_no_write"})  # reading changes nothing


class Watch(FileSystemEventHandler):
    """Calls `on_change` in a thread of its own, until `stop`."""

    def __init__(self, folders: Iterable[Path], on_change: Callable[[], None]) -> None:
        self._folders = frozenset(folders)
        self._on_change = on_change
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._watched: dict[Path, ObservedWatch] = {}
        self._observer = Observer()
        self._arm()
        self._observer.start()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called by watchdog."""
        if event.event_type in SILENT_KINDS or (event.is_directory and event.event_type == "modified"):
            return  # a folder is "modified" when something in it is, and that has an event of its own
        if not any(self._concerns(Path(str(path))) for path in (event.src_path, event.dest_path) if path):
            return
        with self._lock:
            if self._timer:
                self._timer.cancel()
            self._timer = threading.Timer(QUIET_S, self._changed)
            self._timer.daemon = True
            self._timer.start()

    def stop(self) -> None:
        with self._lock:
            if self._timer:
                self._timer.cancel()
        self._observer.stop()
        self._observer.join()

    def _concerns(self, path: Path) -> bool:
        """A file of ours, one of our folders, or a parent that one of them waits for."""
        ours = path.suffix == ".toml" and path.parent in self._folders
        return ours or any(path == folder or path in folder.parents for folder in self._folders)

    def _changed(self) -> None:
        self._arm()
        self._on_change()

    def _arm(self) -> None:
        wanted = {_nearest(folder) for folder in self._folders}
        for folder in self._watched.keys() - wanted:
            with contextlib.suppress(KeyError):
                self._observer.unschedule(self._watched.pop(folder))
        for folder in wanted - self._watched.keys():
            try:
                self._watched[folder] = self._observer.schedule(self, str(folder))
            except OSError as error:  # inotify's limits, or gone again: what is loaded stays in force
                log.warning("changes in %s will not be noticed: %s", folder, error)


def _nearest(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.is_dir())
