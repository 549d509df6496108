"""Times in words as systemd's calendar expressions (systemd.time(7)): "every weekday at 2 am" → "Mon..Fri
*-*-* 02:00:00".

English and Chinese, a small fixed grammar and no guessing: what is not understood is taken to be a calendar
expression already, and `systemd-analyze calendar` has the last word on that.
"""

from __future__ import annotations

import re

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY_NAMES = {
    **{name.lower(): name for name in _DAYS},
    **dict(
        zip(
            ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"), _DAYS, strict=True
        )
    ),
    "tues": "Tue",
    "wednes": "Wed",
    "thur": "Thu",
    "thurs": "Thu",
    "weekday": "Mon..Fri",
    "workday": "Mon..Fri",
    "working day": "Mon..Fri",
    "weekend": "Sat,Sun",
    "day": "",
    "night": "",
    "morning": "",
    "evening": "",
}
_PARTS = {"night": (2, 0), "morning": (8, 0), "evening": (20, 0)}  # where no hour is named
_WORDS = {"noon": (12, 0), "midday": (12, 0), "midnight": (0, 0)}
_COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "ten": 10}
_COUNTS |= {"twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30}
_ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4, "last": -1}
_CLOCK = re.compile(
    r"(?P<hour>\d{1,2})(?:[:.h](?P<minute>\d{2}))?\s*(?:o'?clock)?\s*(?P<half>a\.?m\.?|p\.?m\.?)?",
    re.IGNORECASE,
)
_CN_DAYS = dict(zip("一二三四五六日天", (*_DAYS, "Sun"), strict=True))
_CN_DIGITS = {char: number for number, char in enumerate("零一二三四五六七八九十")} | {"两": 2, "半": 30}
_Time = tuple[int, int]


def expression(said: str) -> str | None:
    """The calendar expression of a time in words; None when it is none that is known here."""
    text = " ".join(said.strip().lower().replace(",", " , ").split())
    return _interval(text) or _english(text) or _chinese(said.strip())


# --- English -----------------------------------------------------------------------------------------


def _interval(text: str) -> str | None:
    """`hourly`, `every 15 minutes`, `every 2 hours`, `every other day`."""
    plain = {
        "every half hour": "*-*-* *:00/30:00",
        "half-hourly": "*-*-* *:00/30:00",
        "hourly": "*-*-* *:00:00",
        "every hour": "*-*-* *:00:00",
        "every minute": "*-*-* *:*:00",
    }
    if text in plain:
        return plain[text]
    found = re.fullmatch(r"every (\w+) (minute|min|hour)s?", text)
    if not found or (count := _count(found[1])) is None:
        return None
    most = 24 if found[2] == "hour" else 60
    if not 0 < count < most or most % count:
        return None  # every 7 minutes is no even rhythm of a clock
    return f"*-*-* 00/{count}:00:00" if most == 24 else f"*-*-* *:00/{count}:00"


def _count(word: str) -> int | None:
    return int(word) if word.isdigit() else _COUNTS.get(word)


def _english(text: str) -> str | None:
    text = re.sub(r"^(daily|weekly|monthly|yearly|annually)\b", _regularly, text)
    text = re.sub(r"^every (?:week|monday) on (?=[a-z])", "every ", text)
    head, _, clock = text.partition(" at ")
    part = next((word for word in _PARTS if re.search(rf"\b{word}\b", head)), "")
    clock_text, _, day_after = clock.partition(" on ")
    time = _clock(clock_text.strip()) if clock else _PARTS.get(part, (0, 0))
    if time is None:
        return None
    if part == "evening" and clock and time[0] < 12 and not re.search(r"[ap]\.?m", clock):
        time = (time[0] + 12, time[1])
    date = _date(" ".join(f"{head} {('on ' + day_after) if day_after else ''}".split()))
    return None if date is None else f"{date} {time[0]:02}:{time[1]:02}:00"


def _regularly(found: re.Match[str]) -> str:
    words = {"daily": "every day", "weekly": "every monday", "monthly": "every month"}
    return words.get(found[1], "every year")


def _clock(text: str) -> _Time | None:
    if text in _WORDS:
        return _WORDS[text]
    found = _CLOCK.fullmatch(text)
    if not found:
        return None
    hour, minute = int(found["hour"]), int(found["minute"] or 0)
    if found["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if found["half"].startswith("p") else 0)
    return (hour, minute) if hour < 24 and minute < 60 else None


def _date(text: str) -> str | None:
    """The date part, as in `Mon..Fri *-*-*`."""
    if monthly := _monthly(text):
        return monthly
    found = re.fullmatch(r"(?:every |each |on )+(.+)", text) or re.fullmatch(r"(.+s)", text)
    if not found:
        return None
    days = [_day(word) for word in re.split(r"\s*(?:,|\band\b)\s*", found[1]) if word]
    if not days or any(day is None for day in days):
        return None
    named = [day for day in days if day]
    return f"{','.join(named)} *-*-*" if named else "*-*-*"


def _day(word: str) -> str | None:
    word = word.strip().removeprefix("on ").removeprefix("every ")
    if span := re.fullmatch(r"(\w+?) (?:to|through|-) (\w+)", word):
        first, last = _DAY_NAMES.get(span[1]), _DAY_NAMES.get(span[2])
        return f"{first}..{last}" if first and last else None
    found = _DAY_NAMES.get(word)
    return found if found is not None else _DAY_NAMES.get(word.removesuffix("s"))


def _monthly(text: str) -> str | None:
    text = text.removeprefix("on ")
    if text == "every year":
        return "*-01-01"
    if text in ("every month", "each month"):
        return "*-*-01"
    of = r" (?:of )?(?:every|each|the) month"
    if found := re.fullmatch(rf"(?:the )?last day{of}", text):
        return "*-*~01"
    for pattern in (
        rf"(?:the )?(\d{{1,2}})(?:st|nd|rd|th)?{of}",
        r"every month on (?:the )?(\d{1,2})(?:st|nd|rd|th)?",
    ):
        if (found := re.fullmatch(pattern, text)) and 1 <= int(found[1]) <= 31:
            return f"*-*-{int(found[1]):02}"
    found = re.fullmatch(rf"(?:the |every )?({'|'.join(_ORDINALS)}) (\w+){of}", text)
    if not found or found[2] not in _DAY_NAMES or not _DAY_NAMES[found[2]]:
        return None
    week = _ORDINALS[found[1]]
    return f"{_DAY_NAMES[found[2]]} *-*{f'-{7 * week - 6:02}..{7 * week:02}' if week > 0 else '~07/1'}"


# --- Chinese -----------------------------------------------------------------------------------------

_CN = re.compile(
    r"(?P<date>每天|每日|每晚|每个?工作日|每个?周末|每个?(?:周|星期|礼拜)[一二三四五六日天、和到至]+|每个?月(?P<day>[\d一二三四五六七八九十]+)[号日])"
    r"(?P<part>凌晨|早上|早晨|上午|中午|下午|傍晚|晚上|夜里|半夜)?"
    r"(?:(?P<hour>[\d一二三四五六七八九十两零]+)(?:[点时](?P<minute>半|[\d一二三四五六七八九十零]+)?分?整?|:(?P<colon>\d{2})))?"
)


def _chinese(text: str) -> str | None:
    text = text.replace(" ", "").replace("：", ":")
    if text in ("每小时", "每个小时"):
        return "*-*-* *:00:00"
    if found := re.fullmatch(r"每隔?([\d一二三四五六七八九十两]+)个?(分钟|小时)", text):
        return _interval(f"every {_number(found[1])} {'minutes' if found[2] == '分钟' else 'hours'}")
    found = _CN.fullmatch(text)
    if not found:
        return None
    time, date = _cn_time(found), _cn_date(found["date"], found["day"])
    return None if time is None or date is None else f"{date} {time[0]:02}:{time[1]:02}:00"


def _cn_time(found: re.Match[str]) -> _Time | None:
    part = found["part"] or ("晚上" if found["date"] == "每晚" else "")
    if not found["hour"]:
        return {"中午": (12, 0), "半夜": (0, 0), "早上": (8, 0), "晚上": (20, 0), "凌晨": (2, 0)}.get(
            part, (0, 0)
        )
    hour = _number(found["hour"])
    minute = _number(found["minute"] or found["colon"] or "0")
    if part in ("下午", "傍晚", "晚上") and hour < 12:
        hour += 12
    if part == "中午" and hour < 3:
        hour += 12
    return (hour, minute) if hour < 24 and minute < 60 else None


def _cn_date(date: str, day: str | None) -> str | None:
    if day:
        return f"*-*-{_number(day):02}" if 1 <= _number(day) <= 31 else None
    if date in ("每天", "每日", "每晚"):
        return "*-*-*"
    if "工作日" in date or "周末" in date:
        return ("Mon..Fri" if "工作日" in date else "Sat,Sun") + " *-*-*"
    days = re.sub(r"每个?(?:周|星期|礼拜)", "", date)
    shown = "".join(_CN_DAYS.get(char, ".." if char in "到至" else ",") for char in days)
    shown = re.sub(r"(?<=[a-z])(?=[A-Z])", ",", shown)
    return f"{shown} *-*-*" if re.fullmatch(r"[A-Z][a-z]{2}(?:(?:,|\.\.)[A-Z][a-z]{2})*", shown) else None


def _number(text: str) -> int:
    """`15`, `十五`, `二十`; up to 99."""
    if text.isdigit():
        return int(text)
    if "十" in text:
        tens, _, ones = text.partition("十")
        return _CN_DIGITS.get(tens, 1) * 10 + (_CN_DIGITS.get(ones, 0) if ones else 0)
    return _CN_DIGITS.get(text, 99)
