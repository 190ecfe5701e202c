#!/usr/bin/env python3
"""rustml and llama.cpp side by side: the same files, the same threads, in turns.

    bench/peers.py --output result.json         # everything; takes a few hours
    bench/peers.py --rows decode --models 'smollm2*:q8_0' --rounds 2
    bench/peers.py --markdown result.json       # the tables of a kept result

It needs a release build of rustml (`cargo build --release -p rustml-cli`), the
two models of `scripts/fetch-models`, and llama-cpp-python, which it builds for
this CPU in an environment of its own (10 to 20 minutes, once) unless --python
names one that has it. Files in other types are made from the two models by
llama.cpp's own quantiser, the larger models by `rustml synth`; they are kept in
--files and made once.

In every round each engine runs each test in a process of its own, rustml first
in odd rounds and llama.cpp first in even ones, so that a slow spell of the
machine meets both. A process runs a test once to warm up, then --repeat times;
its median counts. Tables show the median over rounds, the smallest and the
largest, and the ratio of medians.

llama.cpp is called as by llama-bench: its defaults, memory mapping, no sampling,
in one process that takes its own times (llama_worker.py), so that Python costs
it nothing. Its memory is less what Python had taken before, and its first token
is timed from loading the model on, while rustml's is that of the whole process.
"""

import argparse
import datetime
import fnmatch
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKER = Path(__file__).resolve().with_name("llama_worker.py")

REAL = {
    "gemma-3-270m": ("gemma-3-270m-Q4_K_M.gguf", "q4_k_m"),
    "smollm2-135m": ("SmolLM2-135M-Instruct.Q4_1.gguf", "q4_1"),
}
REAL_TYPES = ["q8_0", "q4_0", "q4_1", "q4_k_m"]
# Weights that are not quantised: the reference, of one model and in two rows.
FLOATS = {"smollm2-135m": ["f16", "bf16", "f32"]}
SYNTHETIC = {"gemma-3-1b-it": ("gemma-3-270m", ["q8_0", "q4_0"])}
MODELS = [f"{m}:{t}" for m in REAL for t in REAL_TYPES]
MODELS += [f"{m}:{t}" for m, (_, types) in SYNTHETIC.items() for t in types]
MODELS += [f"{m}:{t}" for m, types in FLOATS.items() for t in types]


def test(kind, tokens, depth=0, batch=1):
    return {"kind": kind, "tokens": tokens, "depth": depth, "batch": batch}


# What each row runs. Decode and prefill share a process, whose memory and
# loading are the rows of those names.
PLAIN = [test("pp", 512), test("tg", 128)]
DEEP = [test("tg", 32, depth=4096)]
TOGETHER = [test("tg", 32, depth=128, batch=b) for b in (4, 16)]
BUSY = [test("pp", 128), test("tg", 32)]
FIRST_TOKENS = 32

ROWS = {
    "decode": "Decoding one sequence, context below 256 (tokens/s)",
    "prefill": "Reading a prompt of 512 tokens (tokens/s)",
    "depth": "Decoding at depth 4096; llama.cpp with the better of its two attentions (tokens/s)",
    "together": "Sequences decoding together, 128 tokens deep (tokens/s of all)",
    "busy": "Beside one busy process per core (share of the own quiet speed)",
    "first": "From start to first token, 32-token prompt, warm page cache (s)",
    "memory": "Peak memory of loading, pp512 and tg128 (MB)",
    "load": "Loading, warm page cache (s)",
    "quantize": "rustml: quantising bf16 to Q8_0 while loading (GB/s of bf16)",
    "gpt2": "rustml: GPT-2's shape in f32, --quantize auto against none (tokens/s)",
}


def main():
    args = arguments()
    if args.markdown:
        print(markdown(json.loads(args.markdown.read_text())), end="")
        return
    args.files.mkdir(parents=True, exist_ok=True)
    if not args.rustml.exists():
        sys.exit(f"{args.rustml} is missing; cargo build --release -p rustml-cli")
    bench = Bench(args)
    bench.run()
    print(markdown(bench.result), end="")


def arguments():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    lists = lambda text: text.split(",")
    p.add_argument("--rows", type=lists, default=list(ROWS), metavar="ROW,...",
                   help="which of: " + ", ".join(ROWS) + " (default: all)")
    p.add_argument("--models", type=lists, default=["*"], metavar="PATTERN,...",
                   help="which of: " + ", ".join(MODELS) + " (default: *)")
    p.add_argument("--rounds", type=int, default=5, metavar="N", help="(default: 5)")
    p.add_argument("--repeat", type=int, default=3, metavar="N",
                   help="runs of a test in each process (default: 3)")
    p.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N",
                   help="of both engines (default: %(default)s)")
    p.add_argument("--rustml", type=Path, default=ROOT / "target/release/rustml",
                   metavar="PATH", help="(default: target/release/rustml)")
    p.add_argument("--python", type=Path, metavar="PATH",
                   help="a Python that has llama-cpp-python, instead of building it")
    p.add_argument("--env", type=Path, default=ROOT / "target/peers/env", metavar="DIR",
                   help="where llama-cpp-python is built (default: target/peers/env)")
    p.add_argument("--models-dir", type=Path, default=ROOT / "models", metavar="DIR",
                   help="where the two real models are (default: models)")
    p.add_argument("--files", type=Path, default=ROOT / "target/peers/files", metavar="DIR",
                   help="where made files are kept (default: target/peers/files)")
    p.add_argument("--output", type=Path, metavar="FILE",
                   help="keep every result in this JSON file, written after each process")
    p.add_argument("--markdown", type=Path, metavar="FILE",
                   help="print the tables of a kept result, and measure nothing")
    args = p.parse_args()
    for row in args.rows:
        if row not in ROWS:
            p.error(f"--rows: {row} is none of {', '.join(ROWS)}")
    args.models = [m for m in MODELS if any(fnmatch.fnmatch(m, p) for p in args.models)]
    if not args.models:
        p.error(f"--models: nothing fits; there are {', '.join(MODELS)}")
    if min(args.rounds, args.repeat, args.threads) < 1:
        p.error("--rounds, --repeat and --threads must be at least 1")
    return args


def note(*words):
    print(*words, file=sys.stderr, flush=True)


def output_of(command):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True)
    if done.returncode:
        sys.exit(f"{' '.join(str(c) for c in command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


class Busy:
    """A process on each core that does nothing but compute."""

    def __enter__(self):
        self.all = []
        for cpu in sorted(os.sched_getaffinity(0)):
            code = f"import os\nos.sched_setaffinity(0, [{cpu}])\nwhile True: pass"
            self.all.append(subprocess.Popen([sys.executable, "-c", code]))
        time.sleep(0.5)

    def __exit__(self, *_):
        for process in self.all:
            process.kill()
            process.wait()


class Files:
    """The models' files, made when they are first asked for."""

    def __init__(self, args, worker):
        self.args = args
        self.worker = worker

    def of(self, model):
        name, kind = model.split(":")
        if name in SYNTHETIC:
            like = self.args.models_dir / REAL[SYNTHETIC[name][0]][0]
            return self.synth(name, kind, like)
        file, own = REAL[name]
        real = self.args.models_dir / file
        if not real.exists():
            sys.exit(f"{real} is missing; run scripts/fetch-models all")
        if kind == own:
            return real
        path = self.args.files / f"{name}-{kind}.gguf"
        make = lambda to: self.worker({
            "task": "quantize", "input": str(real), "output": str(to),
            "type": kind.upper(), "threads": self.args.threads,
        })
        return self.made(path, make)

    def synth(self, shape, kind, like=None):
        path = self.args.files / f"{shape}-{kind}.gguf"
        extra = ["--like", like] if like else []
        make = lambda to: output_of([self.args.rustml, "synth", "--shape", shape, "--type", kind,
                                     "--output", to, *extra])
        return self.made(path, make)

    def made(self, path, make):
        if not path.exists():
            note(f"making {path.name}")
            part = path.with_suffix(".part")
            make(part)
            part.rename(path)
        return path


class Bench:
    def __init__(self, args):
        self.args = args
        self.python = args.python
        self.files = Files(args, self.worker)
        self.prompts = {}
        self.result = {"machine": machine(args), "settings": settings(args), "runs": []}

    def run(self):
        for number in range(1, self.args.rounds + 1):
            for model in self.args.models:
                self.round(number, model)
            if "quantize" in self.args.rows:
                self.quantize(number)
            if "gpt2" in self.args.rows:
                self.gpt2(number)

    def round(self, number, model):
        rows, path = self.args.rows, self.files.of(model)
        if {"decode", "prefill", "memory", "load"} & set(rows):
            self.both(number, model, "plain", path, PLAIN)
        if model.split(":")[1] in FLOATS.get(model.split(":")[0], []):
            return
        if "depth" in rows:
            self.both(number, model, "depth", path, DEEP, ["off", "on"])
        if "together" in rows:
            self.both(number, model, "together", path, TOGETHER)
        if "busy" in rows:
            self.both(number, model, "quiet", path, BUSY)
            with Busy():
                self.both(number, model, "busy", path, BUSY, repeat=1)
        if "first" in rows:
            self.turns(number, [
                lambda: self.keep(number, model, "first", "rustml", self.rustml_first(model, path)),
                lambda: self.keep(number, model, "first", "llama.cpp", self.worker({
                    "task": "first", "model": str(path), "threads": self.args.threads,
                    "prompt_tokens": FIRST_TOKENS})),
            ])

    def both(self, number, model, group, path, tests, flashes=("auto",), repeat=None):
        repeat = repeat or self.args.repeat
        ours = lambda: self.keep(number, model, group, "rustml", self.rustml(path, tests, repeat))
        turns = [ours]
        for flash in flashes:
            task = {"task": "bench", "model": str(path), "threads": self.args.threads,
                    "repeat": repeat, "flash": flash, "tests": tests}
            engine = "llama.cpp" if flash == "auto" else f"llama.cpp flash {flash}"
            turns.append(lambda task=task, engine=engine: self.keep(
                number, model, group, engine, self.worker(task)))
        self.turns(number, turns)

    def turns(self, number, turns):
        for turn in turns if number % 2 else reversed(turns):
            turn()

    def keep(self, number, model, group, engine, result):
        note(f"round {number}, {model}, {group}, {engine}: {brief(result)}")
        self.result["runs"].append(
            {"round": number, "model": model, "group": group, "engine": engine, **result})
        if self.args.output:
            with tempfile.NamedTemporaryFile("w", dir=self.args.output.resolve().parent,
                                             delete=False) as part:
                json.dump(self.result, part, indent=1)
            os.chmod(part.name, 0o644)
            os.replace(part.name, self.args.output)

    def rustml(self, path, tests, repeat, *flags):
        """All tests must be of one depth; they run in one process."""
        lists = {kind: sorted({t["tokens"] for t in tests if t["kind"] == kind}) or [0]
                 for kind in ("pp", "tg")}
        text = lambda numbers: ",".join(str(n) for n in numbers)
        rows = json.loads(output_of([
            self.args.rustml, "bench", path, "--output", "json", "--repeat", repeat,
            "--threads", self.args.threads, "--depth", tests[0]["depth"],
            "--batch", text(sorted({t["batch"] for t in tests})),
            "--prompt-tokens", text(lists["pp"]), "--max-tokens", text(lists["tg"]), *flags]))
        done = []
        for t in tests:
            row = next(r for r in rows
                       if r["test"] == f"{t['kind']}{t['tokens']}" and r["batch"] == t["batch"])
            done.append({**t, **row})
        return {"load_seconds": rows[0]["load_seconds"], "tests": done}

    def rustml_first(self, model, path):
        if path not in self.prompts:
            self.prompts[path] = self.prompt(path)
        start = time.perf_counter()
        output_of([self.args.rustml, "infer", path, "--threads", self.args.threads, "--prompt",
                   self.prompts[path], "--max-tokens", 1, "--temperature", 0])
        return {"seconds": time.perf_counter() - start}

    def prompt(self, path):
        """A text of 32 tokens."""
        for words in range(FIRST_TOKENS, 1, -1):
            text = "the" + " the" * (words - 1)
            done = subprocess.run([self.args.rustml, "tokenize", path, "--json"], input=text,
                                  stdout=subprocess.PIPE, text=True, check=True)
            if len(json.loads(done.stdout)["ids"]) == FIRST_TOKENS:
                return text
        sys.exit(f"found no prompt of {FIRST_TOKENS} tokens for {path}")

    def quantize(self, number):
        path = self.files.synth("gemma-3-1b-it", "bf16")
        result = self.rustml(path, [test("tg", 1)], 1, "--quantize", "q8_0")
        result["file_bytes"] = path.stat().st_size
        self.keep(number, "gemma-3-1b-it:bf16", "quantize", "rustml", result)

    def gpt2(self, number):
        path = self.files.synth("gpt2", "f32")
        self.turns(number, [
            lambda how=how: self.keep(
                number, "gpt2:f32", "gpt2", f"rustml --quantize {how}",
                self.rustml(path, PLAIN, self.args.repeat, "--quantize", how))
            for how in ("auto", "none")])

    def worker(self, task):
        self.python = self.python or environment(self.args.env)
        result = json.loads(output_of([self.python, WORKER, json.dumps(task)]))
        for key, value in (("llama-cpp-python", result.pop("version")),
                           ("llama.cpp", result.pop("system"))):
            self.result["machine"][key] = value
        return result


def environment(path):
    """A Python with llama-cpp-python, built for this CPU."""
    python = path / "bin/python"
    if not python.exists():
        note(f"making {path}")
        output_of([sys.executable, "-m", "venv", path])
    has = subprocess.run([python, "-c", "import llama_cpp"], capture_output=True)
    if has.returncode:
        note("building llama-cpp-python for this CPU; that takes 10 to 20 minutes")
        env = {**os.environ, "CMAKE_ARGS": " ".join(["-DGGML_NATIVE=ON", *flags()])}
        command = [python, "-m", "pip", "install", "--quiet", "--no-binary=llama-cpp-python",
                   "llama-cpp-python"]
        if subprocess.run(command, env=env).returncode:
            sys.exit("llama-cpp-python could not be built; name a Python that has it by --python")
    return python


def flags():
    """What a build for a CPU with AMX needs besides: older GCC take what sets up the
    tile registers for unused stores and leave it out, and llama.cpp ends at its first prompt."""
    try:
        amx = "amx_int8" in Path("/proc/cpuinfo").read_text()
    except OSError:
        amx = False
    keep = r"-fno-tree-dse\ -fno-dse"
    return [f"-DCMAKE_C_FLAGS={keep}", f"-DCMAKE_CXX_FLAGS={keep}"] if amx else []


def machine(args):
    cpu = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(l.split(":", 1)[1].strip() for l in lines if l.startswith("model name"))
    except (OSError, StopIteration):
        pass
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"],
                            capture_output=True, text=True).stdout.strip()
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "rustml": output_of([args.rustml, "--version"]).strip(),
        "commit": commit,
    }


def settings(args):
    return {"threads": args.threads, "rounds": args.rounds, "repeat": args.repeat,
            "rows": args.rows, "models": args.models}


def brief(result):
    if "seconds" in result:
        return f"{result['seconds']:.3f} s"
    speeds = (f"{t['kind']}{t['tokens']}x{t['batch']} {statistics.median(t['samples']):.1f}"
              for t in result["tests"])
    return ", ".join(speeds) + " tokens/s"


# ---------------------------------------------------------------- the tables


class Kept:
    """The runs of a kept result, asked for by what they are."""

    def __init__(self, result):
        self.runs = result["runs"]

    def models(self, group):
        return list(dict.fromkeys(r["model"] for r in self.runs if r["group"] == group))

    def values(self, group, model, engine, of):
        """One value a round."""
        fit = [r for r in self.runs
               if (r["group"], r["model"], r["engine"]) == (group, model, engine)]
        return [of(r) for r in fit]


def speed(kind, batch=1):
    def of(run):
        test = next(t for t in run["tests"] if t["kind"] == kind and t["batch"] == batch)
        return statistics.median(test["samples"])
    return of


def of_test(kind, key):
    return lambda run: next(t[key] for t in run["tests"] if t["kind"] == kind)


def shown(values, digits):
    """Median (smallest to largest)."""
    if not values:
        return "-"
    text = lambda x: f"{x:.{digits}f}"
    spread = f" ({text(min(values))} to {text(max(values))})" if len(values) > 1 else ""
    return text(statistics.median(values)) + spread


def ratio(a, b):
    return f"{statistics.median(a) / statistics.median(b):.2f}" if a and b else "-"


def table(title, head, rows):
    if not rows:
        return ""
    line = lambda cells: "| " + " | ".join(cells) + " |\n"
    rule = "|" + "---|" * 2 + "---:|" * (len(head) - 2) + "\n"
    return f"\n### {title}\n\n" + line(head) + rule + "".join(line(r) for r in rows)


def versus(kept, group, of, digits, smaller_is_better=False, roof=None):
    rows = []
    for model in kept.models(group):
        ours = kept.values(group, model, "rustml", of)
        theirs = kept.values(group, model, "llama.cpp", of)
        pair = (theirs, ours) if smaller_is_better else (ours, theirs)
        row = [*model.split(":"), shown(ours, digits), shown(theirs, digits), ratio(*pair)]
        if roof:
            row += against(ratio(*pair), kept.values(group, model, "rustml", roof))
        rows.append(row)
    return rows


def against(better, shares):
    """Percent of a roof, and how many times better than llama.cpp the whole of it would be."""
    known = shares and better != "-"
    return [shown(shares, 0), f"{100 * float(better) / statistics.median(shares):.1f}" if known else "-"]


HEAD = ["model", "type", "rustml", "llama.cpp", "times better"]


def deep(kept):
    rows = []
    for model in kept.models("depth"):
        ours = kept.values("depth", model, "rustml", speed("tg"))
        off, on = (kept.values("depth", model, f"llama.cpp flash {how}", speed("tg"))
                   for how in ("off", "on"))
        best = max((v for v in (off, on) if v), key=statistics.median, default=[])
        share = kept.values("depth", model, "rustml", of_test("tg", "percent_of_roof"))
        rows.append([*model.split(":"), shown(ours, 1), shown(off, 1), shown(on, 1),
                     ratio(ours, best), *against(ratio(ours, best), share)])
    return rows


def together(kept):
    rows = []
    for t in TOGETHER:
        found = versus(kept, "together", speed("tg", t["batch"]), 1)
        rows += [[r[0], r[1], str(t["batch"]), *r[2:]] for r in found]
    return rows


def busy(kept):
    rows = []
    for model in kept.models("busy"):
        for kind, name in (("tg", "decoding"), ("pp", "prompt")):
            row = [*model.split(":"), name]
            for engine in ("rustml", "llama.cpp"):
                quiet = kept.values("quiet", model, engine, speed(kind))
                loaded = kept.values("busy", model, engine, speed(kind))
                shares = [100 * b / q for q, b in zip(quiet, loaded)]
                row += [shown(loaded, 1), shown(shares, 0) + " %"]
            rows.append(row)
    return rows


def gpt2(kept):
    rows = []
    for kind, name in (("tg", "decoding"), ("pp", "prompt")):
        auto, none = (kept.values("gpt2", "gpt2:f32", f"rustml --quantize {how}", speed(kind))
                      for how in ("auto", "none"))
        if auto or none:
            rows.append(["gpt2", name, shown(none, 1), shown(auto, 1), ratio(auto, none)])
    return rows


def quantized(kept):
    rate = lambda run: run["file_bytes"] / run["load_seconds"] / 1e9
    rows = []
    for model in kept.models("quantize"):
        rows.append([*model.split(":"), shown(kept.values("quantize", model, "rustml", rate), 2)])
    return rows


def roofs(kept):
    """What the machine read and computed at most, for each size of the working set."""
    found = {}
    for run in kept.runs:
        for t in run.get("tests", []):
            if "roof_gb_per_second" in t and t["kind"] == "tg" and run["group"] != "busy":
                # Sets within a factor of two are one line.
                found.setdefault(int(t["bytes_per_step"]).bit_length(), []).append(t)
    rows = []
    for _, tests in sorted(found.items()):
        reads = [t["roof_gb_per_second"] for t in tests if t["roof_gb_per_second"]]
        sizes = [t["bytes_per_step"] / 1e6 for t in tests]
        ends = dict.fromkeys(f"{size:.0f}" for size in (min(sizes), max(sizes)))
        rows.append([" to ".join(ends) + " MB", str(tests[0]["threads"]), shown(reads, 1)])
    return rows


def markdown(result):
    kept, about, how = Kept(result), result["machine"], result["settings"]
    rows = how["rows"]
    out = (
        f"{about['cpu']}, {about['cpus']} CPUs, {about['memory_bytes'] / 2**30:.0f} GiB, "
        f"{about['system']}; {how['threads']} threads, {how['rounds']} rounds of "
        f"{how['repeat']} runs, {about['date']}.\n"
        f"{about['rustml']} ({about['commit']}); "
        f"llama-cpp-python {about.get('llama-cpp-python', '-')}: {about.get('llama.cpp', '-').strip(' |')}.\n"
        "\nMedians over rounds (smallest to largest).\n"
    )
    out += table("Reading from a working set of the size of a step (GB/s)",
                 ["working set", "threads", "GB/s"], roofs(kept))
    of_read, of_dot = of_test("tg", "percent_of_roof"), of_test("pp", "percent_of_op_roof")
    tables = {
        "decode": ([*HEAD, "% of roof", "all of it"], lambda: versus(kept, "plain", speed("tg"), 1, roof=of_read)),
        "prefill": ([*HEAD, "% of peak", "all of it"], lambda: versus(kept, "plain", speed("pp"), 0, roof=of_dot)),
        "depth": (["model", "type", "rustml", "llama.cpp, flash off", "flash on", "times better",
                   "% of roof", "all of it"], lambda: deep(kept)),
        "together": (["model", "type", "sequences", *HEAD[2:]], lambda: together(kept)),
        "busy": (["model", "type", "test", "rustml", "share", "llama.cpp", "share"],
                 lambda: busy(kept)),
        "first": (HEAD, lambda: versus(kept, "first", lambda r: r["seconds"], 3, True)),
        "memory": ([*HEAD, "of weights and cache"], lambda: memory(kept)),
        "load": (HEAD, lambda: versus(kept, "plain", lambda r: r["load_seconds"], 3, True)),
        "quantize": (["model", "type", "GB/s"], lambda: quantized(kept)),
        "gpt2": (["model", "test", "none", "auto", "times better"], lambda: gpt2(kept)),
    }
    for row, (head, rows_of) in tables.items():
        if row in rows:
            out += table(ROWS[row], head, rows_of())
    return out


def memory(kept):
    peak = lambda run: max(t["peak_rss_bytes"] or 0 for t in run["tests"]) / 1e6
    needed = lambda run: max((t["weight_bytes"] + t["cache_bytes"]) / 1e6 for t in run["tests"])
    rows = versus(kept, "plain", peak, 0, True)
    for row, model in zip(rows, kept.models("plain")):
        ours = kept.values("plain", model, "rustml", peak)
        floor = kept.values("plain", model, "rustml", needed)
        row.append(ratio(ours, floor))
    return rows


if __name__ == "__main__":
    main()
