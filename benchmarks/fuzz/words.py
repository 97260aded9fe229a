"""Words of the formats that are text."""

CSV = (
    '"', '""', ",", ";", "\r", "\r\n", "\0", "\ufeff", "id", "split", "class", "label", "../x", "a/b",
    "a\\b", "..", "nan", "1e999", "-1", "99999999999999999999", "9" * 5000, "\u2028", "\x1b[31m", " ",
    "\t", "²", "٣", "\ud800", "=cmd()", "train", "1", "", "nucleus", "cell",
)  # fmt: skip
YAML = (
    "&a ", "*a", "&a [*a]", "<<: *a", "<<: [*a, *a]", "{", "}", "[", "]", "- ", ": ", "? ", "|", ">",
    "!!binary ", "!!set ", "!!omap ", "!!timestamp ", "!!python/object/apply:os.system ", "!!int ",
    "!!float ", "2001-99-99", "2001-01-01", "1:1:1:1", "1:1:1.5", "0x" + "f" * 5000, "9" * 5000,
    "1e999999", ".nan", ".inf", "~", "null", "true", "%YAML 1.1\n---\n", "---\n", "...\n", "\x85",
    "\u2028", "\x1b[31m", "\0", "\t", "#", "'", '"', '"\\ud800"', "type", "extends",
    "extends: ../../x.yaml", "name", "steps", "1e-4", "-1", "0", "999999999999", "[" * 500, "{a: " * 200,
    "a.b.c", "train.", "..", "1:" * 300 + "1.5", "train", "seed", "blocks", "channels", "multipliers",
    "loss", "validation", "NaN", "Infinity", "[]", "{}", '{"step": 1}', "and", "not ", "(", ")", "==",
    "in", "mean(", "lambda: 0", "__import__('os')", ".__class__", "**", "**9**9**9", "<<9", "'a'*", "if",
    "else", "f'{1}'", ":=", "\\",
)  # fmt: skip
XML = (
    '<!DOCTYPE a [<!ENTITY b "c">]>', '<!DOCTYPE a SYSTEM "file:///etc/passwd">', "&b;", "&amp;", "&#0;",
    "&#x41;", "<Region", "<Vertices>", "<Vertex", "</Region>", '<Vertex X="1" Y="2"/>', 'X="nan"',
    'X="1e308"', 'X="-1e308"', 'X="1e999"', 'X=""', 'X="1_0"', 'Type="2"', 'NegativeROA="1"', "<!--",
    "-->", "<![CDATA[", "]]>", "<?xml", "?>", '<?xml version="1.0" encoding="utf-16"?>',
    '<?xml version="1.0" encoding="x"?>', "xmlns:a='b'", "\0", "<a>" * 2000, "<", ">", '"', "\ud800",
    "\x1b[31m", 'Name="x"', '<Attribute Name="x" Value="y"/>', "<Annotation>", "</Annotation>",
)  # fmt: skip
CODES = (
    "1", "0", "-1", " ", "1 1", "144 1", "145 1", "1 145", "9" * 5000, "9223372036854775807",
    "99999999999999999999", "1.5", "1e3", "nan", ",", '"', "\r", "\0", "a", "٣", "²", "\n", "16 12",
    "99999 99999", "0 0", "-1 -1", "16",
)  # fmt: skip
