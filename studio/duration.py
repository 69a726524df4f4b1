"""Write durations in words."""


def format_duration(seconds: float) -> str:
    """A duration in words, such as "40 s", "3 min", "2 h 10 min" or "4 days"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{round(minutes / 60 / 24)} days"


def format_range(least: float, most: float) -> str:
    """A range in words, such as "4 to 16 min" or "40 s to 3 min".

    It is "about" one duration where both read the same.
    """
    low, high = format_duration(least), format_duration(most)
    if low == high:
        return f"about {high}"
    number, _, unit = low.partition(" ")
    same_unit = " " not in unit and high.endswith(f" {unit}")
    return f"{number if same_unit else low} to {high}"
