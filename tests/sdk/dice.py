"""An upstream whose usage is thrown with dice, in the shapes of OpenAI and Anthropic, whole and streamed.
It keeps a log of what it reported: a JSON object a line, written before the answer's last byte is sent.
recompute.py reads it."""

import json
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TEXT = "some words of an answer"


def unnamed(event):
    return f"data: {json.dumps(event)}\n\n"


def named(event):
    return f"event: {event['type']}\n{unnamed(event)}"


class Dice:
    """Serves on a port of its own until it is stopped. The same seed has the same usages."""

    def __init__(self, log_path, seed):
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.log = open(log_path, "a")
        dice = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                dice.answer(self)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.log.close()

    def answer(self, handler):
        request = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        path = handler.path
        with self.lock:
            fate = self.random.choices(
                ["whole", "refused", "broken", "broken_late"], [84, 6, 5, 5]
            )[0]
            pause = self.random.uniform(0, 0.05)
            usage, tier = self.usage(path), self.random.choice([None, "default", "priority"])
        # Some clients leave meanwhile.
        time.sleep(pause)
        line = {
            "request_id": handler.headers["x-request-id"], "path": path, "request": request,
            "answer": "whole", "usage": usage, "service_tier": tier, "images": 0,
        }
        if fate == "refused":
            status = 529 if path == "/v1/messages" else 429
            self.keep(line | {"answer": str(status)})
            return self.whole(handler, {"error": {"message": "too much", "type": "x"}}, status)
        whole = {
            "/v1/chat/completions": self.chat, "/v1/responses": self.response,
            "/v1/embeddings": self.embeddings, "/v1/images/generations": self.images,
            "/v1/messages": self.message,
        }[path](request, line)
        if request.get("stream"):
            events, last = whole
            # An upstream that breaks off before its usage is not paid; after it, it is.
            if fate == "broken":
                events, last = events[: len(events) // 2], None
                line["answer"] = "broken"
            elif fate == "broken_late":
                last = None
            return self.stream(handler, events, last, line)
        if fate in ("broken", "broken_late"):
            line["answer"] = "broken"
            self.keep(line)
            return self.whole(handler, whole, cut=True)
        self.keep(line)
        self.whole(handler, whole)

    def keep(self, line):
        with self.lock:
            self.log.write(json.dumps(line) + "\n")
            self.log.flush()

    def usage(self, path):
        dice = self.random
        # Often at the edge of the tier.
        asked = dice.choice([0, 1, 7, 1000, 199_999, 200_000, 200_001, dice.randrange(300_000)])
        cached = dice.choice([0, 0, dice.randint(0, asked)])
        written = dice.choice([0, 0, dice.randint(0, asked - cached)])
        made = dice.choice([0, 1, 3, dice.randrange(6000)])
        thought = dice.choice([0, dice.randint(0, made)])
        if path == "/v1/embeddings":
            return {"prompt_tokens": asked, "total_tokens": asked}
        if path == "/v1/images/generations":
            return None
        if path == "/v1/messages":
            hour = dice.choice([0, dice.randint(0, written)])
            by_time = {
                "ephemeral_5m_input_tokens": written - hour, "ephemeral_1h_input_tokens": hour
            }
            return {
                "input_tokens": asked - cached - written, "cache_read_input_tokens": cached,
                "cache_creation_input_tokens": written, "cache_creation": by_time,
                "output_tokens": made,
            }
        asked_details = {"cached_tokens": cached, "cache_write_tokens": written}
        made_details = {"reasoning_tokens": thought}
        if path == "/v1/responses":
            return {
                "input_tokens": asked, "input_tokens_details": asked_details,
                "output_tokens": made, "output_tokens_details": made_details,
                "total_tokens": asked + made,
            }
        return {
            "prompt_tokens": asked, "prompt_tokens_details": asked_details,
            "completion_tokens": made, "completion_tokens_details": made_details,
            "total_tokens": asked + made,
        }

    def chat(self, request, line):
        envelope = {"id": "c", "created": 0, "model": request["model"]}
        if line["service_tier"] is not None:
            envelope["service_tier"] = line["service_tier"]
        if not request.get("stream"):
            message = {"role": "assistant", "content": TEXT}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            return {**envelope, "choices": choices, "usage": line["usage"]}
        def chunk(delta, finish=None):
            choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
            return unnamed({**envelope, "choices": choices, "usage": None})
        assert request["stream_options"]["include_usage"], "Farebox asks for usage"
        events = [chunk({"content": word + " "}) for word in TEXT.split()]
        events += [chunk({}, "stop"), unnamed({**envelope, "choices": [], "usage": line["usage"]})]
        return events, "data: [DONE]\n\n"

    def response(self, request, line):
        part = {"type": "output_text", "text": TEXT, "annotations": []}
        output = [{"type": "message", "id": "m", "role": "assistant", "content": [part]}]
        response = {
            "id": "r", "object": "response", "model": request["model"], "output": output,
            "usage": line["usage"],
        }
        if line["service_tier"] is not None:
            response["service_tier"] = line["service_tier"]
        if not request.get("stream"):
            return response
        events = [named({"type": "response.created", "response": {**response, "usage": None}})]
        events += [
            named({"type": "response.output_text.delta", "delta": word}) for word in TEXT.split()
        ]
        # The last event has the usage; the stream has to be broken off before it or not at all.
        return events, named({"type": "response.completed", "response": response})

    def embeddings(self, request, line):
        line["service_tier"] = None
        return {"object": "list", "data": [], "model": request["model"], "usage": line["usage"]}

    def images(self, request, line):
        line["service_tier"], line["images"] = None, request.get("n", 1)
        return {"created": 0, "data": [{"b64_json": "AAAA"}] * line["images"]}

    def message(self, request, line):
        line["service_tier"] = None
        message = {
            "id": "m", "type": "message", "role": "assistant", "model": request["model"],
            "content": [{"type": "text", "text": TEXT}], "stop_reason": "end_turn",
            "usage": line["usage"],
        }
        if not request.get("stream"):
            return message
        begun = {**message, "content": [], "usage": {**line["usage"], "output_tokens": 0}}
        delta = {"type": "text_delta", "text": TEXT}
        events = [
            {"type": "message_start", "message": begun},
            {"type": "ping"},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {
                "type": "message_delta", "delta": {"stop_reason": "end_turn"},
                "usage": {"output_tokens": line["usage"]["output_tokens"]},
            },
        ]
        return [named(event) for event in events], named({"type": "message_stop"})

    def whole(self, handler, value, status=200, cut=False):
        body = json.dumps(value).encode()
        handler.send_response(status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2] if cut else body)
        handler.close_connection = cut or handler.close_connection

    def stream(self, handler, events, last, line):
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        def send(event):
            handler.wfile.write(f"{len(event):x}\r\n".encode() + event.encode() + b"\r\n")
            handler.wfile.flush()
        if last is None and line["path"] == "/v1/responses":
            line["answer"] = "broken"
        for event in events:
            send(event)
        self.keep(line)
        if last is None:
            handler.close_connection = True
            return
        send(last)
        handler.wfile.write(b"0\r\n\r\n")
