"""kombu, imported whole before any thread of ours needs it.

kombu puts another module object in its place while it is imported. A thread that imports it at the
same time may be left with the first one, which has no `Connection`. Importing this module first, as
all modules here do that start threads, lets one thread do it while the others wait.
"""

from __future__ import annotations

import kombu

#: Resolved, so that it is loaded, and not only promised.
Connection = kombu.Connection
