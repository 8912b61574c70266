"""The dashboard: pages in the browser over the API, live by its WebSocket; a process of its own.

`server.py` starts it, `relay.py` puts the API behind its port, `app.py` is the Streamlit script with a function a page in
`views/`. What moves on the screen is JavaScript in `web/`, plain modules as the browser loads them: `chart.js`, `tape.js`, ...
"""
