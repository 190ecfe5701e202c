"""What peers.py asks of llama.cpp, one task for each process.

Runs under the Python that has llama-cpp-python. The task comes as JSON in the
only argument, the result goes as JSON to standard output. It calls the library
of llama.cpp as llama-bench does, so that no time is spent in Python but for one
call a step, and times are taken here, without the start of the interpreter.

    {"task": "quantize", "input": FILE, "output": FILE, "type": "Q8_0", "threads": 2}
    {"task": "bench", "model": FILE, "threads": 2, "repeat": 3, "flash": "auto",
     "tests": [{"kind": "tg", "tokens": 128, "depth": 0, "batch": 1}]}
    {"task": "first", "model": FILE, "threads": 2, "prompt_tokens": 32}
"""

import ctypes
import json
import os
import sys
import time

import llama_cpp as ll

FLASH = {"auto": -1, "off": 0, "on": 1}
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q4_K_M": 15}


@ll.llama_log_callback
def _quiet(_level, _text, _data):
    pass


def memory(field):
    """Bytes of VmRSS or VmHWM."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


def load(path):
    params = ll.llama_model_default_params()
    params.n_gpu_layers = 0
    model = ll.llama_model_load_from_file(path.encode(), params)
    if not model:
        sys.exit(f"llama.cpp cannot load {path}")
    return model


def context(model, task, positions, sequences):
    """As llama-bench makes it: the defaults, and no full-size window cache."""
    params = ll.llama_context_default_params()
    params.n_ctx = positions
    params.n_seq_max = sequences
    params.n_threads = params.n_threads_batch = task["threads"]
    params.flash_attn_type = FLASH[task.get("flash", "auto")]
    params.swa_full = False
    made = ll.llama_init_from_model(model, params)
    if not made:
        sys.exit("llama.cpp cannot make a context")
    return made, params.n_batch


class Runner:
    """Sequences of one context, and the positions they have reached."""

    def __init__(self, model, task, depth, sequences, tokens):
        room = (depth + tokens + 255) // 256 * 256
        self.ctx, self.most = context(model, task, room * sequences, sequences)
        self.batch = ll.llama_batch_init(self.most, 0, 1)
        self.vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
        self.sequences = sequences
        self.depth = depth
        self.reached = 0
        self.saved = None
        if depth:
            self.prompt([0], depth)
            size = ll.llama_state_seq_get_size(self.ctx, 0)
            self.saved = (ctypes.c_uint8 * size)()
            ll.llama_state_seq_get_data(self.ctx, self.saved, size, 0)

    def rewind(self):
        """Every sequence has `depth` tokens again."""
        ll.llama_memory_clear(ll.llama_get_memory(self.ctx), True)
        if self.saved:
            for s in range(self.sequences):
                done = ll.llama_state_seq_set_data(self.ctx, self.saved, len(self.saved), s)
                if not done:
                    sys.exit("llama.cpp cannot restore its state")
        self.reached = self.depth
        ll.llama_synchronize(self.ctx)

    def token(self, i):
        return (i * 2654435769) % self.vocab

    def decode(self, rows):
        """rows: (sequence, position, whether logits are wanted)"""
        for i, (sequence, position, logits) in enumerate(rows):
            self.batch.token[i] = self.token(position + 1)
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = logits
        self.batch.n_tokens = len(rows)
        if ll.llama_decode(self.ctx, self.batch) != 0:
            sys.exit("llama_decode failed")
        ll.llama_synchronize(self.ctx)

    def prompt(self, sequences, tokens):
        start = self.reached
        rows = [
            (s, start + i, i == tokens - 1) for s in sequences for i in range(tokens)
        ]
        for at in range(0, len(rows), self.most):
            self.decode(rows[at : at + self.most])

    def generate(self, tokens):
        for i in range(tokens):
            position = self.reached + i
            self.decode([(s, position, True) for s in range(self.sequences)])

    def run(self, test):
        """Tokens per second of one run."""
        self.rewind()
        start = time.perf_counter()
        if test["kind"] == "pp":
            self.prompt(range(self.sequences), test["tokens"])
        else:
            self.generate(test["tokens"])
        seconds = time.perf_counter() - start
        return test["tokens"] * self.sequences / seconds

    def close(self):
        ll.llama_batch_free(self.batch)
        ll.llama_free(self.ctx)


def bench(task):
    # What Python itself takes is not llama.cpp's.
    before = memory("VmRSS")
    start = time.perf_counter()
    model = load(task["model"])
    loaded = time.perf_counter() - start
    results = []
    for test in task["tests"]:
        runner = Runner(model, task, test["depth"], test["batch"], test["tokens"])
        runner.run(test)
        samples = [runner.run(test) for _ in range(task["repeat"])]
        runner.close()
        peak = memory("VmHWM") - before
        results.append({**test, "samples": samples, "peak_rss_bytes": peak})
    return {"load_seconds": loaded, "tests": results}


def first(task):
    """Seconds from loading the model to the first token."""
    start = time.perf_counter()
    model = load(task["model"])
    runner = Runner(model, task, 0, 1, 256)
    tokens = task["prompt_tokens"]
    runner.prompt([0], tokens)
    logits = ll.llama_get_logits_ith(runner.ctx, tokens - 1)
    sampler = ll.llama_sampler_init_greedy()
    chosen = ll.llama_sampler_sample(sampler, runner.ctx, -1)
    seconds = time.perf_counter() - start
    assert logits and chosen >= 0
    return {"seconds": seconds}


def quantize(task):
    params = ll.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[task["type"]]
    params.nthread = task["threads"]
    params.allow_requantize = True
    start = time.perf_counter()
    failed = ll.llama_model_quantize(
        task["input"].encode(), task["output"].encode(), ctypes.byref(params)
    )
    if failed:
        sys.exit(f"llama.cpp cannot quantise {task['input']} to {task['type']}")
    return {"seconds": time.perf_counter() - start}


def main():
    task = json.loads(sys.argv[1])
    # The library writes to standard output too, which is for the result.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ll.llama_log_set(_quiet, None)
    ll.llama_backend_init()
    result = {"bench": bench, "first": first, "quantize": quantize}[task["task"]](task)
    result["version"] = ll.__version__
    result["system"] = ll.llama_print_system_info().decode()
    json.dump(result, out)
    out.flush()
    # Nothing to tidy up that the system does not.
    os._exit(0)


if __name__ == "__main__":
    main()
