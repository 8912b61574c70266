"""The pages of the dashboard, one module each: `page()` paints it. A new one is listed in `app.py`.

(Not called `pages`: Streamlit would make pages of its own of a folder with that name.)
"""
