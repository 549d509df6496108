"""`python -m llmos` is the same program as `llmos`."""

from llmos.cli import main

raise SystemExit(main())
