"""The formats of draft 2020-12 that a string can be held to, as regular expressions of whole strings."""

from __future__ import annotations

from codellama.constraints.patterns import Pattern, pattern
from codellama.constraints.refusal import refusal

_YEAR = r"[0-9]{4}"
_LEAP = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_ZONE = r"(?:[zZ]|[+\-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_TIME = rf"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{{1,9}})?{_ZONE}"
# Python and pydantic do not know the year 0.
_LATER = rf"(?!0000){_DATE}"
_N = "[0-9]{1,4}"
_DAYS = rf"(?:{_N}Y(?:{_N}M(?:{_N}D)?)?|{_N}M(?:{_N}D)?|{_N}D)"
_CLOCK = rf"T(?:{_N}H(?:{_N}M(?:{_N}S)?)?|{_N}M(?:{_N}S)?|{_N}S)"
_DURATION = rf"P(?:{_N}W|{_DAYS}(?:{_CLOCK})?|{_CLOCK})"
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9\-]{0,38}[a-zA-Z0-9])?"
# no "--" in the third and fourth place: that begins an encoded label
_ALNUM = "[a-zA-Z0-9]"
_ASCII_LABEL = (
    rf"(?:{_ALNUM}|{_ALNUM}{_ALNUM}|{_ALNUM}{{2}}(?:{_ALNUM}|[a-zA-Z0-9\-]{_ALNUM}"
    rf"|{_ALNUM}[a-zA-Z0-9\-]{{1,58}}{_ALNUM})|{_ALNUM}-(?:[a-zA-Z0-9\-]{{0,59}}{_ALNUM}))"
)
_HOST = rf"{_ASCII_LABEL}(?:\.{_ASCII_LABEL}){{0,3}}"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_H16 = r"[0-9a-fA-F]{1,4}"
_LS32 = rf"(?:{_H16}:{_H16}|{_IPV4})"
_IPV6 = (
    rf"(?:(?:{_H16}:){{6}}{_LS32}|::(?:{_H16}:){{5}}{_LS32}|(?:{_H16})?::(?:{_H16}:){{4}}{_LS32}"
    rf"|(?:(?:{_H16}:){{0,1}}{_H16})?::(?:{_H16}:){{3}}{_LS32}"
    rf"|(?:(?:{_H16}:){{0,2}}{_H16})?::(?:{_H16}:){{2}}{_LS32}"
    rf"|(?:(?:{_H16}:){{0,3}}{_H16})?::{_H16}:{_LS32}"
    rf"|(?:(?:{_H16}:){{0,4}}{_H16})?::{_LS32}"
    rf"|(?:(?:{_H16}:){{0,5}}{_H16})?::{_H16}|(?:(?:{_H16}:){{0,6}}{_H16})?::)"
)
_ATOM = r"[a-zA-Z0-9!#$%&'*+\-/=?^_`{|}~]{1,15}"
_LOCAL = rf"{_ATOM}(?:\.{_ATOM}){{0,3}}"
_TOP = r"[a-zA-Z]{2,24}"
_PERCENT = r"%[0-9a-fA-F]{2}"


def _uri_parts(more: str) -> tuple[str, str, str]:
    """A character of a path, of a user or host, and of a query, where `more` may stand in them too."""
    plain = rf"a-zA-Z0-9\-._~!$&'()*+,;={more}"
    return (
        rf"(?:[{plain}:@]|{_PERCENT})",
        rf"(?:[{plain}]|{_PERCENT})",
        rf"(?:[{plain}:@/?]|{_PERCENT})",
    )


_PORT = r"(?::(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4}))?"
# What browsers and pydantic look up: no host that looks like a number.
_DOMAIN = (
    rf"(?:(?:{_ASCII_LABEL}\.){{1,4}}[a-zA-Z]{{1,24}}|[a-wyzA-WYZ](?:[a-zA-Z0-9]{{0,22}}[a-zA-Z])?)"
)
_WEB_HOST = rf"(?:{_DOMAIN}|{_IPV4}|\[{_IPV6}\])"


def _web(schemes: str) -> str:
    """An address with a host, a path, a query and a fragment."""
    path, host, query = _uri_parts("")
    tail = rf"(?:/{path}*)*(?:\?{query}*)?(?:#{query}*)?"
    return rf"(?:{schemes})://(?:(?:{host}|:)*@)?{_WEB_HOST}{_PORT}{tail}"


def _uri(scheme: str = "[a-zA-Z]", more: str = "") -> str:
    """Any URI by RFC 3986, whose scheme begins so; `more` characters may stand in it."""
    path, host, query = _uri_parts(more)
    authority = rf"(?:(?:(?:{host}|:)*@)?(?:\[{_IPV6}\]|{host}+){_PORT})?"
    tail = rf"(?:\?{query}*)?(?:#{query}*)?"
    where = rf"//{authority}(?:/{path}*)*|/(?:{path}+(?:/{path}*)*)?|{path}+(?:/{path}*)*|"
    return rf"{scheme}[a-zA-Z0-9+\-.]*:(?:{where}){tail}"


def _reference(more: str = "") -> str:
    path, host, query = _uri_parts(more)
    first = path.replace(":@", "@")
    authority = rf"(?:(?:{host}|:)*@)?(?:\[{_IPV6}\]|{host}*)(?::[0-9]{{0,5}})?"
    tail = rf"(?:\?{query}*)?(?:#{query}*)?"
    relative = (
        rf"(?://{authority}(?:/{path}*)*|/(?:{path}+(?:/{path}*)*)?|{first}+(?:/{path}*)*|){tail}"
    )
    return rf"(?:{_uri(more=more)}|{relative})"


_WIDE = r"\u00a0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef\u{10000}-\u{1fffd}"
_POINTER = r"(?:/(?:[^/~]|~[01])*)*"
_VARIABLE = (
    rf"(?:[a-zA-Z0-9_]|{_PERCENT})(?:\.?(?:[a-zA-Z0-9_]|{_PERCENT}))*(?::[1-9][0-9]{{0,3}}|\*)?"
)
_EXPANSION = rf"\{{[+#./;?&=,!@|]?{_VARIABLE}(?:,{_VARIABLE})*\}}"
_TEMPLATE = rf"(?:[^\x00-\x20\x7f\"'%<>\\^`{{|}}]|{_PERCENT}|{_EXPANSION})*"


def _uuid(version: str) -> str:
    digit = "[0-9a-fA-F]"
    return rf"{digit}{{8}}-{digit}{{4}}-{version}{digit}{{3}}-[89abAB]{digit}{{3}}-{digit}{{12}}"


_NETWORK4 = (
    rf"(?:{_IPV4}(?:/32)?|{_OCTET}\.{_OCTET}\.{_OCTET}\.0/24|{_OCTET}\.{_OCTET}\.0\.0/16|{_OCTET}\.0\.0\.0/8"
    r"|0\.0\.0\.0/0)"
)
_NETWORK6 = rf"(?:{_IPV6}(?:/128)?|(?:{_H16}:){{1,4}}:/64|(?:{_H16}:){{1,2}}:/32|::/0)"
_INTERFACE6 = rf"{_IPV6}/(?:12[0-8]|1[01][0-9]|[1-9]?[0-9])"


def _regex(depth: int = 2) -> str:
    """Regular expressions that every reader takes: no lookaround, no references, groups of this depth."""
    classes = r"\[\^?(?:a-z|A-Z|0-9|[a-zA-Z0-9_ .,:;@/+*()$]|\\[dws])+\]"
    atom = rf"(?:[a-zA-Z0-9 _,:;@#%&=<>!\"'~/.\-]|\\[dDwWsSnt.\\*+?()\[\]{{}}|^$/]|{classes})"
    group = rf"|\((?:\?:)?{_regex(depth - 1)}\)" if depth else ""
    part = rf"(?:{atom}{group})(?:[*+?]|\{{[1-9][0-9]?,?\}})?"
    return rf"(?:{part})*(?:\|(?:{part})*)*"


EXPRESSIONS = {
    "date-time": rf"{_LATER}[tT]{_TIME}",
    "date": _LATER,
    "time": _TIME,
    "duration": _DURATION,
    "email": rf"{_LOCAL}@(?:{_LABEL}\.){{1,3}}{_TOP}",
    "idn-email": rf"{_LOCAL}@(?:{_LABEL}\.){{1,3}}{_TOP}",
    "hostname": _HOST,
    "idn-hostname": _HOST,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    # no other scheme that begins like one of http, https, ws, wss, ftp, file
    "uri": rf"(?:{_web('https?|wss?|ftp')}|file://(?:/{_uri_parts('')[0]}*)*|{_uri('[a-egi-vx-zA-EGI-VX-Z]')})",
    "http-url": _web("https?"),
    "uri-reference": _reference(),
    "iri": _uri(more=_WIDE),
    "iri-reference": _reference(_WIDE),
    "uri-template": _TEMPLATE,
    "uuid": r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "uuid1": _uuid("1"),
    "uuid3": _uuid("3"),
    "uuid4": _uuid("4"),
    "uuid5": _uuid("5"),
    "regex": rf"\^?{_regex()}\$?",
    "json-pointer": _POINTER,
    "relative-json-pointer": rf"(?:0|[1-9][0-9]{{0,8}})(?:#|{_POINTER})",
    "ipvanyaddress": rf"(?:{_IPV4}|{_IPV6})",
    "ipv4interface": rf"{_IPV4}/(?:3[0-2]|[12]?[0-9])",
    "ipv6interface": _INTERFACE6,
    "ipvanyinterface": rf"(?:{_IPV4}/(?:3[0-2]|[12]?[0-9])|{_INTERFACE6})",
    # the address of a network ends with zeros
    "ipv4network": _NETWORK4,
    "ipv6network": _NETWORK6,
    "ipvanynetwork": rf"(?:{_NETWORK4}|{_NETWORK6})",
    "decimal": r"[+\-]?(?:0|[1-9][0-9]{0,27})(?:\.[0-9]{1,28})?",
    "byte": r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?",
    "base64": r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?",
    "base64url": r"(?:[A-Za-z0-9_\-]{4})*(?:[A-Za-z0-9_\-]{2}==|[A-Za-z0-9_\-]{3}=)?",
}
"""Each format's strings, for some a part of them: no IDN labels, addresses with a dotted domain."""

UNCONSTRAINED = frozenset({"password", "binary", "path", "string", "textarea", "markdown", "text"})
"""Formats that say how a string is shown or kept, and allow every string."""
NUMERIC = frozenset({"int32", "int64", "uint32", "uint64", "float", "double", "number"})
"""OpenAPI's formats of numbers, which say how a number is stored."""
PATTERN_NAMES = frozenset(
    {
        *(
            "cidrv4",
            "cidrv6",
            "cuid",
            "cuid2",
            "e164",
            "emoji",
            "ends_with",
            "guid",
            "iban",
            "includes",
        ),
        *("ksuid", "lowercase", "mac", "nanoid", "starts_with", "ulid", "uppercase", "xid"),
    }
)
"""zod's names for what the pattern beside them says."""


def format_pattern(name: object, pointer: str) -> Pattern | None:
    """The pattern of a format; None where it allows every string.

    Raises GrammarError for a format that is not known.
    """
    if name in UNCONSTRAINED or name in NUMERIC:
        return None
    expression = EXPRESSIONS.get(name) if isinstance(name, str) else None
    if expression is None:
        raise refusal(
            pointer,
            "the format {name!r} cannot be enforced",
            "use a pattern, or one of " + ", ".join(sorted(EXPRESSIONS)),
            name=name,
        )
    return pattern(f"^(?:{expression})$", pointer, len(expression) + 16)
