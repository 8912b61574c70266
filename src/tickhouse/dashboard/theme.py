"""The colours and type of the dashboard in light and dark; Streamlit follows the browser's preference.

Rising and falling differ in more than hue: teal is lighter than the orange in the dark, darker in the light, rising bars are
hollow, and numbers carry their sign. The components read these as CSS variables (`--st-green-color` = rising, `--st-red-color`
= falling).
"""

from __future__ import annotations

__all__ = ["options"]

_LIGHT = {
    "primaryColor": "#0f6f63",
    "backgroundColor": "#fcfcfa",
    "secondaryBackgroundColor": "#f2f3ef",
    "textColor": "#1c2422",
    "linkColor": "#0f6f63",
    "borderColor": "#dfe2dc",
    "greenColor": "#0d7d6c",
    "redColor": "#b8431f",
    "orangeColor": "#9a6200",
    "grayTextColor": "#5d6763",
    "dataframeHeaderBackgroundColor": "#f2f3ef",
    "codeBackgroundColor": "#f2f3ef",
    "codeTextColor": "#1c2422",
    "chartCategoricalColors": ["#3b62c4", "#a3530a", "#7a3fa8", "#5a6b00", "#b02a6f", "#00708f"],
}
_DARK = {
    "primaryColor": "#2b9583",
    "backgroundColor": "#0f1413",
    "secondaryBackgroundColor": "#171d1c",
    "textColor": "#dde5e2",
    "linkColor": "#4cc3ae",
    "borderColor": "#2a3331",
    "greenColor": "#4cc3ae",
    "redColor": "#ea7b52",
    "orangeColor": "#e0a83f",
    "grayTextColor": "#94a09c",
    "dataframeHeaderBackgroundColor": "#171d1c",
    "codeBackgroundColor": "#171d1c",
    "codeTextColor": "#dde5e2",
    "chartCategoricalColors": ["#7d9df2", "#e5a05c", "#c08be6", "#b3c24a", "#ea80b4", "#52bcd8"],
}
_BOTH = {"baseRadius": "6px", "buttonRadius": "6px", "showWidgetBorder": True, "baseFontSize": 15, "paddingTop": "8px"}


def options() -> dict[str, object]:
    """Return Streamlit's theme options by their dotted names."""
    sections = (("theme", _BOTH), ("theme.light", _LIGHT), ("theme.dark", _DARK))
    return {f"{section}.{key}": value for section, values in sections for key, value in values.items()}
