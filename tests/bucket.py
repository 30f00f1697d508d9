"""A bucket that speaks the protocol of Google Cloud Storage over HTTP, on this machine: gcp-storage-emulator, with what TensorStore asks of the real service beside it.

    python tests/bucket.py PORT          # serves gs://bucket until it is killed; needs pip install gcsfs gcp-storage-emulator

What a process needs in order to find it is `environment(port)`.
"""
import importlib.util
import logging
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.parse import parse_qs, unquote, urlparse

NEEDED = ("gcsfs", "google.cloud.storage", "gcp_storage_emulator")


def missing() -> str:
    """The packages that are not installed, for the reason of a skip; "" when all are here."""
    def here(name):
        try:
            return importlib.util.find_spec(name) is not None
        except ImportError:
            return False
    lost = [name for name in NEEDED if not here(name)]
    return f"no {', '.join(lost)} (pip install gcsfs gcp-storage-emulator)" if lost else ""


def environment(port: int) -> dict[str, str]:
    """For gcsfs and Google's client, and for TensorStore. Nobody's rights are looked for, nor what kind of bucket it is."""
    address = f"http://127.0.0.1:{port}"
    return {"STORAGE_EMULATOR_HOST": address, "TENSORSTORE_GCS_HTTP_URL": address, "GCE_METADATA_ROOT": "127.0.0.1:1", "GCE_METADATA_HOST": "127.0.0.1:1",
            "NO_GCE_CHECK": "true", "GOOGLE_CLOUD_PROJECT": "none", "FSSPEC_GCS_TOKEN": "anon", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}


@contextmanager
def served():
    """The environment of a process that finds gs://bucket, which another process serves."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, __file__, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield environment(port)
    finally:
        server.kill()
        server.wait()


def serve(port: int) -> None:
    from gcp_storage_emulator import server
    from gcp_storage_emulator.exceptions import NotFound

    class Router(server.Router):
        """The generation of what is read, and conditions on what is there (ifGenerationMatch, ifGenerationNotMatch), which the emulator leaves out."""

        def handle(self, method):
            handler = self._request_handler
            address = urlparse(handler.path)
            asked = {name: values[0] for name, values in parse_qs(address.query).items()}
            bucket, _, name = address.path.partition("/b/")[2].partition("/o")
            name = unquote(name.removeprefix("/")) or asked.get("name", "")
            try:
                there = handler.storage.get_file_obj(bucket, name)["generation"] if name else "0"
            except NotFound:
                there = "0"
            handler.generation = there if method == "GET" and there != "0" else ""
            unlike, like = asked.get("ifGenerationMatch", there) != there, asked.get("ifGenerationNotMatch") == there != "0"
            if unlike or like:
                server._read_raw_data(handler)
                handler.send_response(304 if method == "GET" and like else 412)
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
            super().handle(method)

    class Response(server.Response):
        def close(self):
            if self._handler.generation:
                self["x-goog-generation"] = self._handler.generation
            super().close()

    server.Router, server.Response = Router, Response
    logging.disable()
    made = server.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    made.run()


if __name__ == "__main__":
    os.chdir("/")
    serve(int(sys.argv[1]))
