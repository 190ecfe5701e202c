"""Vectors of `rustml serve`, by the clients that people use.

    python scripts/clients/encoders.py path/to/rustml path/to/all-MiniLM-L6-v2

scripts/test-clients installs what this needs, and runs it.
"""

import re
import signal
import subprocess
import sys
import threading
import unittest

import langchain_openai
import openai

BINARY, MODEL = sys.argv[1:3]
NAME = "all-MiniLM-L6-v2"
TEXTS = ["The Nile runs through Egypt.", "Yeast makes bread rise.", "", "富士山は日本一高い山です。"]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b))


class Vectors(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        command = [BINARY, "serve", MODEL, "--port", "0", "--quantize", "none"]
        cls.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in cls.process.stderr:
            if found := re.search(r" at (http://[0-9.:]+):", line):
                cls.url = found[1] + "/v1"
                break
        else:
            raise RuntimeError("the server did not start")
        cls.reader = threading.Thread(target=cls.process.stderr.read)
        cls.reader.start()
        cls.client = openai.OpenAI(base_url=cls.url, api_key="none", max_retries=0, timeout=60)

    @classmethod
    def tearDownClass(cls):
        cls.process.send_signal(signal.SIGTERM)
        status = cls.process.wait(60)
        cls.reader.join()
        cls.process.stderr.close()
        assert status == 0, status

    def test_both_encodings(self):
        # Without a format the client asks for base64, and decodes it.
        decoded = self.client.embeddings.create(model=NAME, input=TEXTS)
        floats = self.client.embeddings.create(model=NAME, input=TEXTS, encoding_format="float")
        self.assertEqual([d.index for d in decoded.data], [0, 1, 2, 3])
        for a, b in zip(decoded.data, floats.data):
            self.assertEqual(len(a.embedding), 384)
            self.assertLess(max(abs(x - y) for x, y in zip(a.embedding, b.embedding)), 1e-7)
            self.assertAlmostEqual(dot(a.embedding, a.embedding), 1, 5)
        self.assertEqual(decoded.usage, floats.usage)
        self.assertGreater(decoded.usage.prompt_tokens, 10)

    def test_fewer_dimensions(self):
        short = self.client.embeddings.create(model=NAME, input=TEXTS[0], dimensions=64).data[0].embedding
        self.assertEqual(len(short), 64)
        self.assertAlmostEqual(dot(short, short), 1, 5)

    def test_refusals(self):
        with self.assertRaisesRegex(openai.BadRequestError, "256"):
            self.client.embeddings.create(model=NAME, input="word " * 1000)
        with self.assertRaises(openai.BadRequestError):
            self.client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "Hello"}])

    def test_langchain(self):
        embeds = langchain_openai.OpenAIEmbeddings(
            model=NAME, base_url=self.url, api_key="none", max_retries=0, check_embedding_ctx_length=False)
        documents = embeds.embed_documents(TEXTS)
        query = embeds.embed_query("Which river is in Egypt?")
        best = max(range(len(TEXTS)), key=lambda i: dot(query, documents[i]))
        self.assertEqual(best, 0)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
