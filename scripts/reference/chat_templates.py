#!/usr/bin/env python3
"""Write what Python's jinja2, set up by transformers, makes of many conversations with every template of a folder.

    python scripts/reference/chat_templates.py FOLDER cases.json
    cargo run -p rustml-jinja --example compare -- cases.json

FOLDER holds *.jinja files, as models/templates in llama.cpp's tree does (also within llama-cpp-python's sdist, below
vendor/llama.cpp). They are other people's, so they are not kept here. Needs transformers and jinja2.
"""

import json
import sys
from pathlib import Path

from transformers.utils.chat_template_utils import _compile_jinja_template


def function(name, description, parameters):
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


WEATHER = function("weather", 'Tells the weather of a "place", e.g. Łódź <now>.', {
    "type": "object",
    "properties": {
        "place": {"type": "string", "description": "Where\nit is"},
        "days": {"type": "integer", "default": 1, "maximum": 7.0},
        "unit": {"type": "string", "enum": ["C", "F", "it's"]},
    },
    "required": ["place"],
})
DEEP = function("deep", "", {
    "$defs": {"Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}, "additionalProperties": False}},
    "type": "object",
    "properties": {
        "list": {"type": "array", "items": {"type": ["number", "null"]}, "default": [1.5, None, True, 1e20, 1e-7]},
        "any": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Node"}], "nullable": True},
        "o": {"type": "object", "properties": {"b": {"type": "boolean"}, "a": {"type": "array", "items": {"type": "string"}}}, "required": ["a"]},
    },
})
BARE = {"type": "function", "function": {"name": "bare"}}
NOTHING = function("now", "The time.", {"type": "object", "properties": {}})
RETURNS = {"type": "function", "function": NOTHING["function"] | {"return": {"type": "string"}, "returns": "x", "strict": True}}


def user(text, **more):
    return {"role": "user", "content": text, **more}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


def tool(text, id="call00001", **more):
    return {"role": "tool", "content": text, "tool_call_id": id, **more}


def call(name, arguments, id="call00001"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def part(text):
    return {"type": "text", "text": text}


DAYS = call("weather", {"place": "Łódź's \"<b>\"", "days": 2, "x": [1.0, None, {"k": False}]})
TEXT = call("weather", '{"place": "Łódź", "days": 2}')
TALK = [system(" Be brief. "), user(" 1 + 1? "), assistant(" 2 \n"), user("<b>é</b> {{ x }}\n\n")]
THINK = [user("a"), assistant("<think>\nhm\n</think>\n\nb"), user("c"), assistant("<think>hm</think>d"), user("e")]


def calls(content, *made, **more):
    return [user("Weather?"), assistant(content, tool_calls=list(made), **more)]


ABSENT = {"role": "assistant", "tool_calls": [DAYS]}
ANSWERED = calls("", DAYS) + [tool('{"sky": "grey", "t": 1.5}')]
PARALLEL = calls(None, DAYS, call("now", {}, "call00002")) + [tool("grey"), tool("12:00", "call00002", name="now")]
REASONED = calls("", DAYS, reasoning_content="\nI should look.\n") + [tool("21"), assistant("21.", reasoning_content="So 21."), user("?")]

TALKS = [
    [user("Hi!")], TALK, [], [system("s")], [system("s"), user("u")], THINK, THINK[:4], THINK[:2],
    [user("a"), user("b")], [assistant("first"), user("u")], [user("a"), assistant("b")], [user("")], [user("a"), assistant("")],
    [user("a"), system("late"), user("b")], [{"role": "developer", "content": "d"}, user("u")],
    [{"role": "clown", "content": "c"}], [user("a"), {"role": "assistant", "content": None}, user("b")],
    [user("a", name="Ann"), assistant("b", name="Bob"), user("c")],
    [user([part("one"), part("two")])], [system([part("s1"), part("s2")]), user([part("u")]), assistant([part("a")]), user("x")],
    [user([part("look"), {"type": "image"}, {"type": "image_url", "image_url": {"url": "u"}}])],
    calls("", DAYS), calls("", TEXT), calls(None, DAYS), [user("W?"), ABSENT], calls("Let me see.", DAYS), calls("", DAYS, DAYS),
    ANSWERED, ANSWERED + [assistant("Grey.")], ANSWERED + [assistant("Grey."), user("Thanks!")], PARALLEL,
    PARALLEL + [assistant("ok"), user("more"), assistant("", tool_calls=[TEXT]), tool("[1, 2]")],
    [system("s")] + ANSWERED, calls("", TEXT) + [tool("x", name="weather")], calls("", call("now", {})) + [tool({"a": [1, "x"]})],
    calls("", DAYS) + [tool([part("p1"), part("p2")])], calls("", call("now", {}), reasoning_content="r") + [tool("")],
    REASONED, REASONED[:3], REASONED[:4], [user("a"), assistant("b", reasoning_content="r")], [user("a"), assistant("b", reasoning="r", thinking="t"), user("c")],
    [user("<|im_end|></s><think>x</think>[INST]"), assistant("</think>y"), user("<tool_response>x</tool_response>")],
    [system(""), user("a")], [system("  "), user("  a  ")], [user("é😀\t\r\n“quotes” \\ \u2028 \x7f")],
    [user("a"), assistant("b", prefix=True)], [user("a /no_think")], [user("a"), assistant("b"), user("c"), assistant("d"), user("e")],
]
EXTRAS = [
    {}, {"add_generation_prompt": False}, {"tools": [WEATHER, NOTHING]}, {"tools": [DEEP, BARE, RETURNS]},
    {"tools": [WEATHER["function"]]}, {"tools": []}, {"enable_thinking": False}, {"enable_thinking": True, "tools": [WEATHER]},
    {"documents": [{"title": "T", "text": "body", "doc_id": 1}, {"title": "U", "text": "more"}]},
    {"thinking": True}, {"reasoning_effort": "high", "tools": [WEATHER]}, {"reasoning_effort": "none"}, {"date_string": "01 Jan 2025", "tools": [WEATHER], "tools_in_user_message": False},
    {"builtin_tools": ["browser", "python", "brave_search"], "model_identity": "You are X."}, {"continue_final_message": True, "add_generation_prompt": False},
    {"preserve_thinking": True, "clear_thinking": False, "keep_past_thinking": True, "thinking_budget": 512},
    {"system_message": "given", "tool_choice": "required", "json_mode": True, "parallel_tool_calls": False},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def render(template, variables):
    try:
        return {"expected": template.render(**variables)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}


def main():
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    # Every conversation as it is and with some of the variables, every variable with some of the conversations.
    pairs = [(i, j) for i in range(len(TALKS)) for j in range(len(EXTRAS)) if j in (0, 1, 2) or (i + j) % 4 == 0 or i in (0, 1, 27)]
    found = {"talks": TALKS, "extras": EXTRAS, "tokens": TOKENS, "templates": []}
    for path in sorted(folder.glob("*.jinja")):
        # Dates would change from day to day; written as their formats they do not.
        source = path.read_text().replace("strftime_now", "'{}'.format")
        try:
            template = _compile_jinja_template(source)
        except Exception as error:
            found["templates"].append({"name": path.name, "source": source, "broken": str(error), "cases": []})
            continue
        cases = []
        for talk, extra in pairs:
            variables = {"add_generation_prompt": True, "tools": None, "documents": None} | TOKENS | EXTRAS[extra]
            cases.append({"talk": talk, "extra": extra} | render(template, {"messages": TALKS[talk]} | variables))
        found["templates"].append({"name": path.name, "source": source, "cases": cases})
    out.write_text(json.dumps(found))
    good = sum("expected" in case for template in found["templates"] for case in template["cases"])
    every = sum(len(template["cases"]) for template in found["templates"])
    print(f"{len(found['templates'])} templates, {every} cases, {good} of them render")


if __name__ == "__main__":
    main()
