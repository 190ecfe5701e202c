#!/usr/bin/env python3
"""Write anew what Python's jinja2, set up as transformers does it, makes of the sources in snippets.json.

    python crates/rustml-jinja/tests/chat/snippets.py [NEW SOURCE...]
"""

import json
import sys
from pathlib import Path

from make import environment

HERE = Path(__file__).resolve().parent


def main():
    variables = json.loads((HERE / "variables.json").read_text())
    path = HERE / "snippets.json"
    found = []
    for source in dict.fromkeys([case["source"] for case in json.loads(path.read_text())] + sys.argv[1:]):
        try:
            found.append({"source": source, "expected": environment().from_string(source).render(**variables)})
        except Exception as error:
            found.append({"source": source, "error": f"{type(error).__name__}: {error}"[:150]})
    path.write_text("[\n" + ",\n".join(" " + json.dumps(case) for case in found) + "\n]\n")
    print(len(found), "snippets,", sum("expected" in case for case in found), "render")


if __name__ == "__main__":
    main()
