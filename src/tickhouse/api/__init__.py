"""The HTTP and WebSocket interface of a house; the only part that knows of web libraries.

`app.py` puts it together, `rest.py` and `stream.py` are what it offers, `server.py` runs it.
"""
