"""The official SDKs of OpenAI and Anthropic for Node with a timeout that is shorter than the upstream's answer.

Needs the binary's path in FAREBOX_BIN, and in FAREBOX_SDK_NODE the folder with the SDKs' node_modules;
`make test-sdk` sets up both and calls this.
"""

import unittest

import test_retries
from node import run_node


class OfNode(test_retries.Retries, unittest.TestCase):
    def ask(self, sdk, timeout=test_retries.TIMEOUT_S, key=None, times=1):
        return run_node(
            "retries.mjs", sdk, self.gateway.address, self.key, self.prompt, str(timeout * 1000), str(times), key or ""
        )


if __name__ == "__main__":
    unittest.main(verbosity=2)
