"""A cloud storage on this machine: PyPI's emulator, and what it lacks of what Orbax and gcsfs rely on."""

import threading
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import HTTPServer

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.storage import Storage

BUCKET = "bucket"


def _conditional(handler):
    """The handler of an object, called where the request's conditions hold; the answer names the generation."""

    def handle(request, response, storage):
        name = request.params.get("object_id") or request.query.get("name", [None])[0] or request.data["meta"]["name"]
        try:
            generation = storage.get_file_obj(request.params["bucket_name"], name)["generation"]
        except NotFound:
            generation = "0"
        if request.query.get("ifGenerationMatch", [generation]) != [generation]:
            response.status = HTTPStatus.PRECONDITION_FAILED
        elif generation != "0" and request.query.get("ifGenerationNotMatch") == [generation]:
            response.status = HTTPStatus.NOT_MODIFIED
        else:
            response["X-Goog-Generation"] = generation
            handler(request, response, storage)

    return handle


def _move(request, response, storage):
    request.params["dest_bucket_name"] = request.params["bucket_name"]
    objects.copy(request, response, storage)
    if response.status == HTTPStatus.OK:
        storage.delete_file(request.params["bucket_name"], request.params["object_id"])


def _handlers():
    path = r"^/storage/v1/b/(?P<bucket_name>[-.\w]+)/o/(?P<object_id>.+)/moveTo/o/(?P<dest_object_id>.+)$"
    yield path, {"POST": _move}
    of_objects = (objects.get, objects.download, objects.insert, objects.delete)
    for path, handlers in server.HANDLERS:
        yield path, {verb: _conditional(h) if h in of_objects else h for verb, h in handlers.items()}


server.HANDLERS = tuple(_handlers())


class Bucket:
    """What lies at `gs://bucket/`, for processes with this `environment` on top of theirs."""

    def __init__(self, storage, port):
        self._storage = storage
        address = f"http://127.0.0.1:{port}"
        self.environment = {
            "STORAGE_EMULATOR_HOST": address,  # for Google's client and gcsfs
            "TENSORSTORE_GCS_HTTP_URL": address,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "any",  # for TensorStore
            "GOOGLE_CLOUD_PROJECT": "any",
            "NO_GCE_CHECK": "true",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it would ask Google over gRPC
        }

    def names(self, prefix=""):
        return [content["name"] for content in self._storage.get_file_list(BUCKET, prefix)[0]]

    def read(self, name):
        return self._storage.get_file(BUCKET, name)

    def write(self, name, content):
        facts = self._storage.get_file_obj(BUCKET, name) | {"crc32c": None, "md5Hash": None}
        self._storage.create_file(BUCKET, name, content, objects._checksums(content, facts))

    def delete(self, name):
        self._storage.delete_file(BUCKET, name)

    def download(self, prefix, directory):
        """All below `prefix/`, as files of that directory, which it returns."""
        for name in self.names(prefix + "/"):
            path = directory / name.removeprefix(prefix + "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(name))
        return directory


@contextmanager
def served_bucket():
    """A `Bucket`, for as long as the context lasts."""
    storage = Storage(use_memory_fs=True)
    buckets.create_bucket(BUCKET, storage)
    http = HTTPServer(("127.0.0.1", 0), partial(server.RequestHandler, storage))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield Bucket(storage, http.server_port)
    finally:
        http.shutdown()
        http.server_close()
