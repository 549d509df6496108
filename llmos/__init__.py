"""llmos: say what you want done on this machine; it is planned locally, judged, sandboxed and recorded."""

__version__ = "0.1.0"
