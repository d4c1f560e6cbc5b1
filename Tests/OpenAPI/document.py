"""The description, and whether a reply is what it promises."""

import json
import re

import jsonschema
import referencing
import referencing.jsonschema

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


def content_schema(validator, schema, instance, _):
    """JSON inside a string: jsonschema itself leaves contentSchema to its caller."""
    yield from validator.descend(json.loads(instance), schema)


Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"contentSchema": content_schema})


def events(text):
    """The server-sent events of a stream that may be cut behind one."""
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if fields:
            yield fields


class Operation:
    def __init__(self, document, path, method, value):
        self.path, self.method, self.value = path, method.upper(), value
        self.name = value["operationId"]
        ports = [server["url"].rsplit(":", 1)[1] for server in value.get("servers", document.value["servers"])]
        self.listeners = [{"8000": "client", "8001": "admin"}[port] for port in ports]
        examples = {parameter["name"]: parameter["example"] for parameter in value["parameters"]
                    if parameter.get("in") == "path"}
        self.target = re.sub("{(.*?)}", lambda match: examples[match[1]], path)
        self.needs_json = "requestBody" in value

    def reply(self, status):
        """The documented reply, and what it is called where it is seen: once for all that share it."""
        reply = self.value["responses"].get(str(status))
        if reply is None:
            raise AssertionError(f"{self.name}: {status} is not documented")
        return reply, reply["$ref"] if set(reply) == {"$ref"} else f"{self.name} {status}"


class Document:
    def __init__(self, text):
        self.value = json.loads(text)
        resource = referencing.Resource.from_contents(self.value, referencing.jsonschema.DRAFT202012)
        self._registry = referencing.Registry().with_resource("openapi.json", resource)
        found = [Operation(self, path, method, value) for path, item in self.value["paths"].items()
                 for method, value in item.items() if method in METHODS]
        self.operations = {operation.name: operation for operation in found}
        assert len(self.operations) == len(found), "two operations have the same operationId"
        self._missing = {entry for operation in found for entry in self._promises(operation)}

    def _resolve(self, value):
        while "$ref" in value:
            target = self.value
            for part in value["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            value = target | {key: item for key, item in value.items() if key != "$ref"}
        return value

    def _promises(self, operation):
        for status in operation.value["responses"]:
            reply, called = operation.reply(status)
            for media in self._resolve(reply).get("content", {}):
                yield called, media

    def check_all_seen(self):
        """Fails for replies that are documented and that no check has seen."""
        assert not self._missing, ", ".join(sorted(f"{called} ({media})" for called, media in self._missing))

    def validate(self, value, schema, what):
        validator = Validator(self._absolute(schema), registry=self._registry)
        error = jsonschema.exceptions.best_match(validator.iter_errors(value))
        if error is not None:
            raise AssertionError(f"{what}: at {error.json_path}: {error.message}"[:1000])

    def _absolute(self, schema):
        """A schema of the document, which is validated away from it."""
        if isinstance(schema, dict):
            return {key: f"openapi.json{value}" if key == "$ref" else self._absolute(value)
                    for key, value in schema.items()}
        return [self._absolute(item) for item in schema] if isinstance(schema, list) else schema

    def check(self, name, reply):
        """Fails unless the operation's description has this reply, with this head and this body."""
        operation = self.operations[name]
        documented, called = operation.reply(reply.status)
        documented = self._resolve(documented)
        what = f"{name} {reply.status}"
        for header, value in documented.get("headers", {}).items():
            value = self._resolve(value)
            text = reply.headers.get(header)
            assert text is not None or not value.get("required"), f"{what}: no header {header}"
            if text is not None:
                is_number = self._resolve(value["schema"]).get("type") == "integer"
                self.validate(int(text) if is_number else text, value["schema"], f"{what}: {header}")
        media = reply.headers.get("Content-Type", "").split(";")[0]
        assert media in documented["content"], f"{what}: {media} is not documented"
        for value in self.values(media, reply.text):
            self.validate(value, documented["content"][media]["schema"], what)
        self._missing.discard((called, media))

    @staticmethod
    def values(media, text):
        """What the schema of such a body describes: each event or line of a stream."""
        match media:
            case "application/json":
                return [json.loads(text)]
            case "text/event-stream":
                return list(events(text))
            case "application/x-ndjson":
                return [json.loads(line) for line in text.splitlines()]
            case _:
                return [text]

    def check_examples(self):
        def walk(value, where):
            value = self._resolve(value) if isinstance(value, dict) else value
            if isinstance(value, dict):
                examples = [item["value"] for item in value.get("examples", {}).values()]
                examples += [value["example"]] if "example" in value else []
                for example in examples if "schema" in value else []:
                    media = where.rsplit(" ", 1)[-1]
                    texts = self.values(media, example) if isinstance(example, str) else [example]
                    for one in texts:
                        self.validate(one, value["schema"], f"example of {where}")
                for key, item in value.items():
                    if key not in ("schema", "example", "examples"):
                        walk(item, f"{where} {key}")
            elif isinstance(value, list):
                for item in value:
                    walk(item, where)
        walk(self.value["paths"], "")
