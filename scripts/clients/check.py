"""Every endpoint and field of `rustml serve`, by the clients that people use.

    python scripts/clients/check.py path/to/rustml path/to/model.gguf

scripts/test-clients installs what this needs, and runs it.
"""

import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import unittest
from typing import Literal

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network

import httpx
import litellm
import openai
import openapi_spec_validator
from pydantic import BaseModel, Field

BINARY, MODEL = sys.argv[1:3]
KEY = "secret-of-the-test"


class Server:
    """A server of its own, on a free port."""

    def __init__(self, *flags):
        command = [BINARY, "serve", MODEL, "--port", "0", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines = []
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r" at (http://[0-9.:]+):", line):
                self.url = found[1]
                break
        else:
            raise RuntimeError("the server did not start: " + "".join(self.lines))
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr))
        self.reader.start()

    def client(self, **more):
        return openai.OpenAI(base_url=self.url + "/v1", **{"api_key": KEY, "max_retries": 0, "timeout": 60, **more})

    def end(self, ask=True):
        if ask:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        self.reader.join()
        self.process.stderr.close()
        return status


SERVER = None
NAME = os.path.basename(MODEL).removesuffix(".gguf")
HELLO = [{"role": "user", "content": "Name a river in Europe."}]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "enum": [1, 2, 3]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


def setUpModule():
    global SERVER
    SERVER = Server("--api-key", KEY, "--alias", "gpt-4o-mini")


def tearDownModule():
    assert SERVER.end() == 0, "".join(SERVER.lines)


class Case(unittest.TestCase):
    def setUp(self):
        self.client = SERVER.client()

    def chat(self, messages=HELLO, **more):
        more = {"model": NAME, "temperature": 0, "max_tokens": 24, **more}
        return self.client.chat.completions.create(messages=messages, **more)

    def text(self, prompt="The capital of France is", **more):
        more = {"model": NAME, "temperature": 0, "max_tokens": 8, **more}
        return self.client.completions.create(prompt=prompt, **more)

    def refused(self, kind, **fields):
        with self.assertRaises(kind) as caught:
            self.chat(**fields)
        error = caught.exception
        self.assertTrue(error.body["message"])
        return error


class Chat(Case):
    def test_whole(self):
        answer = self.chat()
        choice = answer.choices[0]
        self.assertEqual((answer.object, answer.model, choice.message.role), ("chat.completion", NAME, "assistant"))
        self.assertTrue(choice.message.content)
        self.assertIn(choice.finish_reason, ("stop", "length"))
        usage = answer.usage
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        self.assertGreaterEqual(usage.prompt_tokens_details.cached_tokens, 0)
        self.assertTrue(answer.system_fingerprint.startswith("fp_"))

    def test_stream_is_the_whole(self):
        whole = self.chat()
        chunks = list(self.chat(stream=True, stream_options={"include_usage": True}))
        said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(said, whole.choices[0].message.content)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual((chunks[-1].choices, chunks[-1].usage.completion_tokens), ([], whole.usage.completion_tokens))
        self.assertEqual(chunks[-2].choices[0].finish_reason, whole.choices[0].finish_reason)
        self.assertEqual(len({c.id for c in chunks}), 1)

    def test_stream_helper(self):
        with self.client.chat.completions.stream(model=NAME, messages=HELLO, temperature=0, max_tokens=200, stop=["."]) as stream:
            kinds = {event.type for event in stream}
            final = stream.get_final_completion()
        self.assertLessEqual({"chunk", "content.delta", "content.done"}, kinds)
        self.assertTrue(final.choices[0].message.content)

    def test_asynchronously(self):
        import asyncio

        async def ask():
            client = openai.AsyncOpenAI(base_url=SERVER.url + "/v1", api_key=KEY, max_retries=0)
            stream = await client.chat.completions.create(model=NAME, messages=HELLO, max_tokens=5, stream=True)
            return [chunk async for chunk in stream]

        self.assertGreater(len(asyncio.run(ask())), 2)

    def test_seeds_and_several(self):
        def ask(seed):
            answer = self.chat(n=3, seed=seed, temperature=1.2, top_p=0.95, extra_body={"top_k": 50, "min_p": 0.01})
            return [c.message.content for c in answer.choices]

        first = ask(1)
        self.assertEqual(first, ask(1))
        self.assertEqual(len(set(first)), 3)
        self.assertNotEqual(first, ask(2))

    def test_stop_penalties_and_bias(self):
        plain = self.chat().choices[0].message.content
        stop = plain[4:7]
        stopped = self.chat(stop=[stop, "never"])
        self.assertEqual(stopped.choices[0].message.content, plain.split(stop)[0])
        self.assertEqual(stopped.choices[0].finish_reason, "stop")
        first = self.chat(logprobs=True, max_tokens=1).choices[0].logprobs.content[0].token
        ids = httpx.post(SERVER.url + "/tokenize", json={"prompt": first, "add_special_tokens": False}, headers={"Authorization": "Bearer " + KEY}).json()
        biased = self.chat(logit_bias={str(ids["tokens"][0]): -100}, max_tokens=1)
        self.assertNotEqual(biased.choices[0].message.content, first)
        repeats = "Say yes. " * 20
        penalised = self.chat([{"role": "user", "content": repeats}], presence_penalty=1.5, frequency_penalty=1.5,
                              extra_body={"repetition_penalty": 1.1})
        self.assertTrue(penalised.choices[0].message.content)

    def test_stop_strings_never_leak_into_a_stream(self):
        plain = self.chat().choices[0].message.content
        for at in range(1, len(plain) - 6, 5):
            stop = plain[at : at + 6]  # begins and ends within tokens
            pieces = [c.choices[0].delta.content or "" for c in self.chat(stop=stop, stream=True) if c.choices]
            self.assertEqual("".join(pieces), plain[: plain.index(stop)], stop)

    def test_logprobs(self):
        content = self.chat(logprobs=True, top_logprobs=5, max_tokens=4).choices[0].logprobs.content
        self.assertEqual(len(content), 4)
        for token in content:
            self.assertEqual(len(token.top_logprobs), 5)
            self.assertEqual(token.token, token.top_logprobs[0].token)
            self.assertLessEqual(token.logprob, 0)
            self.assertEqual(bytes(token.bytes).decode(errors="replace"), token.token)
        streamed = [t for c in self.chat(logprobs=True, top_logprobs=5, max_tokens=4, stream=True)
                    if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content]
        self.assertEqual(streamed, content)

    def test_conversations_and_parts(self):
        messages = [
            {"role": "developer", "content": "You are brief."},
            {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "2 + 2?"}]},
        ]
        first = self.chat(messages)
        messages += [first.choices[0].message, {"role": "user", "content": "And 3 + 3?"}]
        second = self.chat(messages)
        self.assertGreater(second.usage.prompt_tokens, first.usage.prompt_tokens)

    def test_raw_headers(self):
        raw = self.client.chat.completions.with_raw_response.create(model=NAME, messages=HELLO, max_tokens=1)
        self.assertEqual(raw.headers["content-type"], "application/json")
        self.assertTrue(raw.parse().choices)


class Tools(Case):
    ASK = [{"role": "user", "content": "How is the weather in Paris on the next 2 days?"}]

    def check(self, call):
        self.assertEqual((call.type, call.function.name), ("function", "get_weather"))
        self.assertTrue(call.id.startswith("call_"))
        arguments = json.loads(call.function.arguments)
        self.assertEqual(set(arguments), {"city", "days"})
        self.assertIn(arguments["days"], (1, 2, 3))

    def test_required_and_named(self):
        for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
            answer = self.chat(self.ASK, tools=[WEATHER], tool_choice=choice, max_tokens=100)
            self.assertEqual(answer.choices[0].finish_reason, "tool_calls")
            self.assertIsNone(answer.choices[0].message.content)
            self.check(answer.choices[0].message.tool_calls[0])
            self.talk_on(answer)

    def talk_on(self, answer):
        call = answer.choices[0].message.tool_calls[0]
        result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 25 degrees."}
        self.assertTrue(self.chat([*self.ASK, answer.choices[0].message, result], tools=[WEATHER]).choices)

    def test_streamed(self):
        chunks = self.chat(self.ASK, tools=[WEATHER], tool_choice="required", stream=True, max_tokens=100)
        deltas = [c.choices[0] for c in chunks if c.choices]
        calls = [call for d in deltas for call in d.delta.tool_calls or []]
        self.assertEqual({c.index for c in calls}, {0})
        self.assertTrue(calls[0].id and calls[0].function.name == "get_weather")
        self.assertFalse(any(c.id for c in calls[1:]))
        self.assertEqual(set(json.loads("".join(c.function.arguments for c in calls))), {"city", "days"})
        self.assertEqual(deltas[-1].finish_reason, "tool_calls")

    def test_stream_helper(self):
        with self.client.chat.completions.stream(model=NAME, messages=self.ASK, temperature=0, max_tokens=100,
                                                 tools=[WEATHER], tool_choice="required") as stream:
            for _ in stream:
                pass
            final = stream.get_final_completion()
        self.check(final.choices[0].message.tool_calls[0])

    def test_auto_and_none(self):
        for choice in ("auto", "none"):
            answer = self.chat(HELLO, tools=[WEATHER], tool_choice=choice)
            message = answer.choices[0].message
            self.assertTrue(message.content or message.tool_calls)
            self.assertFalse(choice == "none" and message.tool_calls)


class River(BaseModel):
    name: str = Field(max_length=20)
    length_km: int = Field(ge=1, le=9999)
    countries: list[Literal["France", "Germany", "Spain"]] = Field(max_length=3)


class Responses(Case):
    """OpenAI's newer form of conversations."""

    def create(self, given="Name a river in Europe.", **more):
        return self.client.responses.create(model=NAME, input=given, **{"temperature": 0, "max_output_tokens": 24, **more})

    def test_it_is_the_answer_of_a_chat(self):
        answer = self.create()
        self.assertEqual(answer.output_text, self.chat().choices[0].message.content)
        self.assertEqual(answer.usage.total_tokens, answer.usage.input_tokens + answer.usage.output_tokens)
        again = self.create([{"role": "user", "content": "Name a river in Europe."}, *answer.output, {"role": "user", "content": "And another?"}])
        self.assertTrue(again.output_text)

    def test_streamed(self):
        # The package wants an answer that was not cut.
        with self.client.responses.stream(model=NAME, input="Say hi.", temperature=0, max_output_tokens=300) as events:
            said = "".join(e.delta for e in events if e.type == "response.output_text.delta")
            self.assertEqual(said, events.get_final_response().output_text)
        self.assertEqual(said, self.create("Say hi.", max_output_tokens=300).output_text)

    def test_functions_and_their_results(self):
        tool = {"type": "function", "strict": True, **WEATHER["function"]}
        ask = "How is the weather in Paris on the next 2 days?"
        answer = self.create(ask, tools=[tool], tool_choice="required", parallel_tool_calls=False, max_output_tokens=100)
        call = answer.output[0]
        self.assertEqual((call.type, call.name), ("function_call", "get_weather"))
        self.assertEqual(set(json.loads(call.arguments)), {"city", "days"})
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 25 degrees."}
        talk = [{"role": "user", "content": ask}, call, result]
        self.assertTrue(self.create(talk, tools=[tool], tool_choice="none").output_text)

    def test_parse(self):
        answer = self.client.responses.parse(model=NAME, input="Name a river in Europe.", text_format=River, temperature=0, max_output_tokens=300)
        self.assertIsInstance(answer.output_parsed, River)

    def test_what_is_kept_nowhere_is_refused(self):
        with self.assertRaises(openai.BadRequestError):
            self.create(previous_response_id="resp_1")


class Structured(Case):
    def test_parse(self):
        answer = self.client.chat.completions.parse(model=NAME, messages=HELLO, response_format=River, temperature=0, max_tokens=300)
        self.assertIsInstance(answer.choices[0].message.parsed, River)

    def test_hot_answers_fit_as_well(self):
        schema = {"type": "object", "properties": {"colour": {"enum": ["red", "green"]}, "size": {"type": "integer", "minimum": 1, "maximum": 9}},
                  "required": ["colour", "size"], "additionalProperties": False}
        answer = self.chat(n=4, temperature=2, max_tokens=100, seed=3,
                           response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}})
        for choice in answer.choices:
            found = json.loads(choice.message.content)
            self.assertTrue(found["colour"] in ("red", "green") and 1 <= found["size"] <= 9, found)

    def test_objects_regexes_and_grammars(self):
        answer = self.chat([{"role": "user", "content": "Describe a river as JSON."}], response_format={"type": "json_object"}, max_tokens=400)
        if answer.choices[0].finish_reason == "stop":
            self.assertIsInstance(json.loads(answer.choices[0].message.content), dict)
        answer = self.chat(extra_body={"regex": "[A-Z][a-z]{2,8} [0-9]{3}"})
        self.assertRegex(answer.choices[0].message.content, "^[A-Z][a-z]{2,8} [0-9]{3}$")
        answer = self.text(max_tokens=20, extra_body={"grammar": 'start: "Paris" | "London"'})
        self.assertIn(answer.choices[0].text, ("Paris", "London"))

    def test_what_cannot_be_compiled_is_refused(self):
        for more in ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}},
                     {"extra_body": {"regex": "(" * 2000}}, {"extra_body": {"regex": "(a{1,900}){1,900}{1,900}"}},
                     {"extra_body": {"grammar": "start: " + " | ".join(f'"{i}" x{i}' for i in range(60_000))}}):
            start = time.monotonic()
            self.refused(openai.BadRequestError, **more)
            self.assertLess(time.monotonic() - start, 20)


class Completions(Case):
    def test_whole_and_stream(self):
        whole = self.text()
        self.assertEqual((whole.object, whole.usage.completion_tokens), ("text_completion", 8))
        pieces = self.text(stream=True)
        self.assertEqual("".join(c.choices[0].text for c in pieces), whole.choices[0].text)

    def test_prompts_of_all_kinds(self):
        texts = self.text(["One, two,", "Red, green,"], n=2, temperature=1, seed=4)
        self.assertEqual([c.index for c in texts.choices], [0, 1, 2, 3])
        ids = httpx.post(SERVER.url + "/tokenize", json={"prompt": "The capital of France is"}, headers={"Authorization": "Bearer " + KEY}).json()["tokens"]
        self.assertEqual(self.text(ids).choices[0].text, self.text().choices[0].text)
        self.assertEqual(len(self.text([ids, ids]).choices), 2)

    def test_echo_and_logprobs(self):
        answer = self.text(echo=True, logprobs=2, max_tokens=3)
        l = answer.choices[0].logprobs
        self.assertTrue(answer.choices[0].text.startswith("The capital of France is"))
        self.assertEqual(len(l.tokens), answer.usage.total_tokens)
        self.assertIsNone(l.token_logprobs[0])
        for token, at in zip(l.tokens, l.text_offset):
            self.assertEqual(answer.choices[0].text[at : at + len(token)], token)
        scored = self.text(echo=True, logprobs=0, max_tokens=0)
        self.assertEqual(scored.choices[0].text, "The capital of France is")


class Others(Case):
    def test_models(self):
        self.assertEqual([m.id for m in self.client.models.list()], [NAME, "gpt-4o-mini"])
        self.assertEqual(self.client.models.retrieve("gpt-4o-mini").object, "model")
        self.assertEqual(self.chat(model="gpt-4o-mini").model, "gpt-4o-mini")
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("gpt-5")

    def test_embeddings_are_refused(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.embeddings.create(model=NAME, input="x")
        self.assertIn(NAME, caught.exception.body["message"])

    def test_errors(self):
        with self.assertRaises(openai.AuthenticationError):
            SERVER.client(api_key="wrong").models.list()
        self.assertEqual(self.refused(openai.NotFoundError, model="gpt-4").code, "model_not_found")
        for param, value in (("temperature", -1), ("n", 0), ("max_tokens", -5), ("stop", ""), ("audio", {"voice": "x", "format": "wav"}),
                             ("prediction", {"type": "content", "content": "x"}), ("reasoning_effort", "high"), ("store", True)):
            self.assertEqual(self.refused(openai.BadRequestError, **{param: value}).param, param)
        self.assertEqual(self.refused(openai.BadRequestError, messages=[{"role": "user", "content": "x " * 20_000}]).code, "context_length_exceeded")

    def test_tokens_and_back(self):
        def ask(path, **body):
            return httpx.post(SERVER.url + path, json=body, headers={"Authorization": "Bearer " + KEY}).json()

        for text in ("Hello there", "Grüße, 世界 🎉", " \n\tif x:\n"):
            tokens = ask("/tokenize", prompt=text, return_token_strs=True)
            self.assertEqual((tokens["count"], len(tokens["token_strs"])), (len(tokens["tokens"]),) * 2)
            self.assertEqual(ask("/detokenize", tokens=tokens["tokens"])["prompt"], text)
        chat = ask("/tokenize", messages=HELLO)
        self.assertEqual(chat["count"], self.chat(max_tokens=1).usage.prompt_tokens)

    def test_the_document_is_valid(self):
        openapi_spec_validator.validate(httpx.get(SERVER.url + "/openapi.json").json())

    def test_plain_endpoints(self):
        self.assertEqual(httpx.get(SERVER.url + "/health").json(), {"status": "ok"})
        self.assertEqual(httpx.get(SERVER.url + "/ready").status_code, 200)
        self.assertIn("<html", httpx.get(SERVER.url + "/").text.lower())
        self.assertIn("/v1/chat/completions", httpx.get(SERVER.url + "/openapi.json").json()["paths"])
        metrics = httpx.get(SERVER.url + "/metrics", headers={"Authorization": "Bearer " + KEY}).text
        self.assertRegex(metrics, r"rustml_generation_tokens_total \d")

    def test_many_at_once_get_what_each_gets_alone(self):
        def ask(i):
            return self.text(f"Story number {i}: " + "once upon a time " * (i * 7 % 40), max_tokens=16, temperature=i % 2, seed=i).choices[0].text

        alone = [ask(i) for i in range(16)]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            self.assertEqual(list(pool.map(ask, range(16))), alone)


class Litellm(unittest.TestCase):
    def ask(self, **more):
        return litellm.completion(model="openai/" + NAME, api_base=SERVER.url + "/v1", api_key=KEY, messages=HELLO,
                                  temperature=0, max_tokens=16, **more)

    def test_whole_stream_and_errors(self):
        whole = self.ask().choices[0].message.content
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in self.ask(stream=True)), whole)
        with self.assertRaises(litellm.exceptions.BadRequestError):
            self.ask(extra_body={"nonsense": 1})

    def test_tools(self):
        answer = litellm.completion(model="openai/" + NAME, api_base=SERVER.url + "/v1", api_key=KEY, messages=Tools.ASK,
                                    temperature=0, max_tokens=100, tools=[WEATHER], tool_choice="required")
        self.assertEqual(answer.choices[0].message.tool_calls[0].function.name, "get_weather")


class Life(unittest.TestCase):
    """Servers of their own."""

    LONG = {"model": NAME, "messages": [{"role": "user", "content": "Tell a very long story."}], "max_tokens": 300, "temperature": 0}

    def test_the_busy_are_tried_again(self):
        server = Server("--slots", "1", "--queue", "0")
        try:
            stream = server.client().chat.completions.create(**self.LONG, stream=True)
            next(iter(stream))
            with self.assertRaises(openai.RateLimitError):
                server.client().chat.completions.create(**self.LONG)
            # The client waits as Retry-After says, and comes again.
            threading.Timer(0.3, stream.close).start()
            answer = server.client(max_retries=5).chat.completions.create(**{**self.LONG, "max_tokens": 3})
            self.assertEqual(answer.usage.completion_tokens, 3)
        finally:
            self.assertEqual(server.end(), 0)
        self.assertTrue(any('finish="cancelled"' in line for line in server.lines))

    def test_the_end_waits(self):
        server = Server()
        stream = iter(server.client().chat.completions.create(**self.LONG, stream=True))
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        with self.assertRaises((openai.InternalServerError, openai.APIConnectionError)):
            server.client().chat.completions.create(**self.LONG)
        self.assertIsNotNone([c.choices[0].finish_reason for c in stream][-1])
        self.assertEqual(server.end(ask=False), 0)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
