#!/usr/bin/env python3
"""Write cases.json: what Python's jinja2, set up as transformers does it, makes of the templates here.

    python crates/rustml-jinja/tests/chat/make.py

Needs jinja2 (3.1.6 was used). The templates are written for these tests, in the manner of the models they are named
after, with everything that those use.
"""

import json
from datetime import datetime
from pathlib import Path

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = Path(__file__).resolve().parent


class Generation(jinja2.ext.Extension):
    """The generation block, which transformers uses for finding what to train on."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(line)

    def _support(self, caller):
        return caller()


class Raised(Exception):
    pass


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise Raised(message)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return env


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a \"place\", e.g. Łódź <now>.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer", "default": 1, "maximum": 7.0}},
            "required": ["place"],
        },
    },
}
TIME = {"type": "function", "function": {"name": "time", "description": "The time.", "parameters": {"type": "object", "properties": {}}}}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


def call(name, arguments, id="call00001"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


SHORT = [user("Hi!")]
TALK = [system(" Be brief. "), user(" 1 + 1? "), assistant(" 2 \n"), user("<b>é</b> {{ x }}")]
TOOLS = [
    user("Weather in Łódź?"),
    assistant("", tool_calls=[call("weather", {"place": "Łódź", "days": 2})]),
    {"role": "tool", "content": "{\"sky\": \"grey\"}", "tool_call_id": "call00001"},
    assistant("Grey."),
    user("Thanks!"),
]
BUILTIN = [user("Weather?"), assistant("", tool_calls=[call("weather", {"place": "Łódź", "day": "Monday"})])]
THINK = [user("a"), assistant("<think>\nhm\n</think>\n\nb"), user("c"), assistant("<think>\nhm\n</think>\n\nd")]

CASES = [
    ("chatml", SHORT, {}), ("chatml", TALK, {}), ("chatml", [], {}), ("chatml", [system("s")], {"add_generation_prompt": False}),
    ("llama31", SHORT, {"date_string": "01 Jan 2025"}), ("llama31", TALK, {"date_string": "01 Jan 2025"}),
    ("llama31", TALK, {"date_string": "d", "add_generation_prompt": False}),
    ("llama31", TOOLS, {"date_string": "d", "tools": [TOOL, TIME]}),
    ("llama31", [system("s")] + TOOLS, {"date_string": "d", "tools": [TOOL], "tools_in_user_message": False}),
    ("llama31", BUILTIN, {"date_string": "d", "custom_tools": [TIME], "builtin_tools": ["weather", "code_interpreter"]}),
    ("llama31", [system("s")], {"date_string": "d", "tools": [TOOL]}),
    ("llama31", [user("x"), assistant("", tool_calls=[call("a", {}), call("b", {})])], {"date_string": "d"}),
    ("gemma3", SHORT, {}), ("gemma3", TALK, {}), ("gemma3", SHORT, {"add_generation_prompt": False}),
    ("gemma3", [user("a"), user("b")], {}),
    ("mistral", SHORT, {}), ("mistral", TALK, {}), ("mistral", TOOLS, {"tools": [TOOL, TIME]}),
    ("mistral", [user("a"), user("b")], {}), ("mistral", [user("a"), {"role": "clown", "content": "b"}], {}),
    ("mistral", [user("a"), assistant("", tool_calls=[call("t", {}, id="x")])], {}),
    ("qwen3", SHORT, {}), ("qwen3", TALK, {}), ("qwen3", THINK, {}), ("qwen3", THINK[:3], {"enable_thinking": False}),
    ("qwen3", TOOLS, {"tools": [TOOL, TIME]}), ("qwen3", [system("s")] + TOOLS[:3], {"tools": [TOOL]}),
    ("features", [user(" a word "), {"role": "skip", "content": "s"}, user("b"), user("c"), {"role": "stop", "content": ""}, user("d")], {}),
    ("features", [], {}),
]


def main():
    cases = []
    for name, messages, extra in CASES:
        extra = dict(extra)
        prompt = extra.pop("add_generation_prompt", True)
        template = environment().from_string((HERE / f"{name}.jinja").read_text())
        case = {"template": name, "messages": messages, "add_generation_prompt": prompt, "extra": extra}
        try:
            variables = {"tools": None, "documents": None, "bos_token": "<s>", "eos_token": "</s>"} | extra
            case["expected"] = template.render(messages=messages, add_generation_prompt=prompt, **variables)
        except Raised as e:
            case["raised"] = str(e)
        cases.append(case)
    text = "[\n" + ",\n".join(" " + json.dumps(case) for case in cases) + "\n]\n"
    (HERE / "cases.json").write_text(text)
    print(len(cases), "cases")


if __name__ == "__main__":
    main()
