"""The schemas give usable types: generates Python types from them, and tries these on every example.

`tests/types/run` calls it with a Python that has `requirements.txt`. Every file in `schemas/examples/` says by its name how it
must be judged (see `tests/contract.rs`). What is valid must survive the types unchanged. What is not must be refused by one of

- the types: what a generator can say;
- the schema: what stands beside the types, such as "a time-out has no HTTP status";
- the page: what no schema can say, and the `$comment` of the intent's schema lists. `refused_by_the_page` is that list.
"""

import enum
import importlib
import json
import re
import subprocess
import sys
import typing
import unittest
from collections import Counter
from datetime import date, datetime, timedelta
from pathlib import Path

import jsonschema
import pydantic

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT / "schemas"
MODULES = {"intents": ("cancel-intent.v1.json", "cancel_intent"), "outcomes": ("cancel-outcome.v1.json", "cancel_outcome")}
KINDS = ["async_cancel", "sync_cancel_rollback", "transaction_cancel", "apm_provision_cancel", "batch_cancel"]

# Texts that may hold a line break, since they are for people or not ours.
FREE_TEXTS = {("source",), ("data", "reason", "message"), ("data", "reason", "evidence")}


def generate(folder: Path) -> None:
    """Runs the very command that schemas/README.md names."""
    for schema, module in MODULES.values():
        command = ["datamodel-codegen", "--input", f"schemas/{schema}", "--input-file-type", "jsonschema"]
        command += ["--output", f"{module}.py", "--preset", "standard-py310-20261027", "--no-collapse-root-models", "--use-type-alias"]
        assert " ".join(command) in (SCHEMAS / "README.md").read_text(encoding="utf-8"), " ".join(command)
        run_generator(command, folder / f"{module}.py")


def run_generator(command: list[str], output: Path) -> None:
    command = [sys.executable, "-m", "datamodel_code_generator", *command[1:]]
    command[command.index("--output") + 1] = str(output)
    subprocess.run(command, cwd=ROOT, check=True)


def examples(folder: str) -> typing.Iterator[tuple[str, bytes]]:
    for path in sorted((SCHEMAS / "examples" / folder).iterdir()):
        yield path.name, path.read_bytes()


def schema_of(folder: str) -> dict[str, typing.Any]:
    return json.loads((SCHEMAS / MODULES[folder][0]).read_text(encoding="utf-8"))


def schemas_of_files() -> dict[str, dict[str, typing.Any]]:
    """Every object and closed list of both schemas, by its title."""
    parts = [part for folder in MODULES for part in (schema_of(folder), *schema_of(folder)["$defs"].values())]
    return {part["title"]: part for part in parts if "title" in part}


# ----------------------------------------------------------------------------------------------------------------------
# What the page says and no schema can.


def once(pairs: list[tuple[str, typing.Any]]) -> dict[str, typing.Any]:
    seen = dict(pairs)
    if len(seen) != len(pairs):
        seen["a key came twice"] = True
    return seen


def no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def depth(value: typing.Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def as_time(text: str) -> tuple[datetime, str]:
    """To the second, and the digits after it: a `datetime` knows neither leap seconds nor nanoseconds."""
    fraction = "".join(re.findall(r"\.([0-9]+)", text)).rstrip("0")
    text = re.sub(r"\.[0-9]+", "", text.upper()).replace("Z", "+00:00")
    leap = timedelta(seconds=":60" in text)
    return datetime.fromisoformat(text.replace(":60", ":59")) + leap, fraction


def refused_by_the_page(body: bytes) -> bool:
    """Refuses an intent for what no schema can say. Types and schema have had no fault to find."""
    if len(body) > 262_144 or body.startswith(b"\xef\xbb\xbf"):
        return True
    try:
        intent = json.loads(body.decode("utf-8"), object_pairs_hook=once, parse_constant=no_number)
        # What lies in `reference` is the publisher's, and may come twice.
        within = {key: value for key, value in intent.items() if key != "reference"}
        if "a key came twice" in json.dumps(within):
            return True
        requested, payment = as_time(intent["requestedAt"]), intent["payment"]
        for item in [payment, *payment.get("payments", [])]:
            date.fromisoformat(item.get("date", "2000-01-01"))
        if as_time(payment.get("cancelRequestedAt", intent["requestedAt"])) > requested:
            return True
    except ValueError:
        return True
    codes = [item["merchantUniqueCode"] for item in payment.get("payments", [])]
    return len(set(codes)) < len(codes) or depth(intent.get("reference")) > 32


# ----------------------------------------------------------------------------------------------------------------------


class Types(unittest.TestCase):
    """All that is promised of the generated types."""

    generated: typing.ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        cls.intent = importlib.import_module("cancel_intent")
        cls.outcome = importlib.import_module("cancel_outcome")
        cls.adapters = {
            "intents": pydantic.TypeAdapter(cls.intent.CancelIntent),
            "outcomes": pydantic.TypeAdapter(cls.outcome.CancelOutcome),
        }
        cls.schemas = {folder: jsonschema.Draft202012Validator(schema_of(folder)) for folder in MODULES}

    def test_every_valid_example_survives_the_types_unchanged(self) -> None:
        tried = Counter()
        for folder, adapter in self.adapters.items():
            for name, body in examples(folder):
                if name.startswith("valid."):
                    with self.subTest(name):
                        value = adapter.validate_json(body, strict=True)
                        written = adapter.dump_json(value, by_alias=True, exclude_unset=True)
                        self.assertEqual(json.loads(written), json.loads(body))
                        self.assertTrue(self.schemas[folder].is_valid(json.loads(written)))
                        self.assertFalse(folder == "intents" and refused_by_the_page(body))
                        tried[folder] += 1
        print(f"types: {tried['intents']} valid intents and {tried['outcomes']} valid outcomes survive unchanged")
        self.assertGreater(min(tried["intents"], tried["outcomes"]), 30)

    def test_every_invalid_example_is_refused_by_the_types_or_by_the_schema_or_by_the_page(self) -> None:
        refused = Counter()
        for folder in MODULES:
            for name, body in examples(folder):
                if not name.startswith("valid."):
                    with self.subTest(name):
                        refused[folder, self.who_refuses(folder, name, body)] += 1
        for (folder, who), count in sorted(refused.items()):
            print(f"types: {count} invalid {folder} are refused by the {who}")
        # Most of it by the types alone, or they would not be worth much.
        for folder in MODULES:
            self.assertGreater(refused[folder, "types"], refused[folder, "schema"])

    def who_refuses(self, folder: str, name: str, body: bytes) -> str:
        try:
            self.adapters[folder].validate_json(body, strict=True)
        except pydantic.ValidationError:
            return "types"
        beyond = name.startswith("invalid-beyond-schema.")
        try:
            seen = not self.schemas[folder].is_valid(json.loads(body))
        except ValueError:
            seen = False
        self.assertNotEqual(seen, beyond, "the schema judges otherwise than the name says")
        if seen:
            return "schema"
        self.assertTrue(refused_by_the_page(body), "nobody refuses it")
        return "page"

    def test_a_line_break_after_any_bounded_text_is_refused_where_the_end_of_a_pattern_would_let_it_pass(self) -> None:
        def texts(value: typing.Any, path: tuple[str, ...] = ()) -> typing.Iterator[tuple[typing.Any, typing.Any, tuple[str, ...]]]:
            if path and path[-1] == "reference":
                return
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(inner, str):
                    yield value, key, (*path, str(key))
                elif isinstance(inner, (dict, list)):
                    yield from texts(inner, (*path, str(key)))

        tried = Counter()
        for folder, schema in self.schemas.items():
            for name, body in examples(folder):
                if name.startswith("valid."):
                    value = json.loads(body)
                    for holder, key, path in list(texts(value)):
                        if path not in FREE_TEXTS:
                            text = holder[key]
                            holder[key] = text + "\n"
                            with self.subTest(name, path=path):
                                self.assertFalse(schema.is_valid(value))
                            holder[key] = text
                            tried[path] += 1
        self.assertGreater(len(tried), 25)

    def test_an_intent_is_told_apart_by_its_kind(self) -> None:
        adapter = self.adapters["intents"]
        bad = {"intentId": "x", "kind": "transaction_cancel", "requestedAt": "x", "payment": {"uniqueCode": "x", "date": "x"}}
        with self.assertRaises(pydantic.ValidationError) as told:
            adapter.validate_python(bad)
        # Of that kind alone, and each by its field.
        places = {error["loc"] for error in told.exception.errors()}
        self.assertEqual({place[0] for place in places}, {"transaction_cancel"})
        self.assertIn(("transaction_cancel", "payment", "uniqueCode"), places)
        with self.assertRaises(pydantic.ValidationError) as told:
            adapter.validate_python({**bad, "kind": "sale"})
        self.assertEqual([error["type"] for error in told.exception.errors()], ["union_tag_invalid"])
        kinds = typing.get_args(typing.get_args(self.intent.CancelIntent.__value__)[0])
        self.assertEqual([typing.get_args(kind.model_fields["kind"].annotation) for kind in kinds], [(kind,) for kind in KINDS])

    def test_a_payment_status_is_told_apart_by_its_scheme(self) -> None:
        body = json.loads((SCHEMAS / "examples/outcomes/valid.async_cancel.cancelled.json").read_bytes())
        status = self.outcome.CancelOutcome.model_validate(body).data.payment_status
        self.assertIsInstance(status, self.outcome.PhysicalStatus)
        self.assertIs(status.name, self.outcome.PhysicalStatusName.successful)
        body["data"]["paymentStatus"]["name"] = "on_hold"
        with self.assertRaises(pydantic.ValidationError) as told:
            self.outcome.CancelOutcome.model_validate(body)
        self.assertEqual([error["loc"] for error in told.exception.errors()], [("data", "paymentStatus", "physical", "name")])

    def test_closed_lists_are_enums_with_the_values_of_the_schema(self) -> None:
        defs = schema_of("outcomes")["$defs"]
        lists = {name[0].upper() + name[1:]: part["enum"] for name, part in defs.items() if "enum" in part}
        self.assertLessEqual({"Kind", "Status", "ReasonCode", "Fault", "PhysicalStatusName", "VirtualPosTypeName"}, set(lists))
        for name, values in lists.items():
            generated = getattr(self.outcome, name)
            self.assertTrue(issubclass(generated, enum.Enum), name)
            self.assertEqual([member.value for member in generated], values, name)
        for model, field, expected in [
            ("OutcomeData", "kind", "Kind"),
            ("OutcomeData", "status", "Status"),
            ("Reason", "code", "ReasonCode"),
            ("PhysicalType", "name", "PhysicalTypeName"),
        ]:
            annotation = getattr(self.outcome, model).model_fields[field].annotation
            self.assertIs(annotation, getattr(self.outcome, expected), f"{model}.{field}")

    def test_nothing_but_the_reference_is_of_any_type(self) -> None:
        found = 0
        for module in (self.intent, self.outcome):
            for model in vars(module).values():
                if isinstance(model, type) and issubclass(model, pydantic.BaseModel) and model is not pydantic.BaseModel:
                    self.assertRegex(model.__name__, r"^[A-Z][A-Za-z]+$", "a name with a number is one that a generator made up")
                    for name, field in model.model_fields.items():
                        found += 1
                        if name != "reference":
                            self.assertNotIn("Any", str(field.annotation), f"{model.__name__}.{name}")
        self.assertGreater(found, 60)

    def test_the_asyncapi_document_gives_the_same_types_message_by_message(self) -> None:
        command = ["datamodel-codegen", "--input", "schemas/asyncapi.json", "--input-file-type", "asyncapi"]
        command += ["--output", "messages", "--preset", "standard-py310-20261027", "--no-collapse-root-models", "--use-type-alias"]
        run_generator(command, self.generated / "cancel_messages")
        messages = importlib.import_module("cancel_messages")
        for kind in KINDS:
            body = (SCHEMAS / f"examples/intents/valid.{kind}.every-field.json").read_bytes()
            model = getattr(messages, "".join(map(str.capitalize, kind.split("_"))) + "Intent")
            self.assertEqual(json.loads(model.model_validate_json(body).model_dump_json(by_alias=True)), json.loads(body))
        headers = messages.DeadLetterHeaders.model_fields["cancel_reason"].annotation
        self.assertTrue(issubclass(headers, enum.Enum))

    def test_the_openapi_document_holds_together(self) -> None:
        printed = subprocess.run([sys.executable, SCHEMAS / "as-openapi.py"], capture_output=True, check=True).stdout
        document = json.loads(printed)
        schemas = document["components"]["schemas"]
        references = set(re.findall(r'"\$ref": "([^"]+)"', printed.decode("utf-8")))
        self.assertLessEqual(references, {f"#/components/schemas/{name}" for name in schemas})
        for name, part in schemas_of_files().items():
            self.assertEqual(schemas[name]["title"], part["title"])
        self.assertEqual(list(schemas["CancelIntent"]["discriminator"]["mapping"]), KINDS)
        self.assertEqual(list(schemas["PaymentStatus"]["discriminator"]["mapping"]), ["physical", "virtual_pos", "apm"])

    def test_a_type_checker_is_content_with_a_listener_and_a_publisher(self) -> None:
        sources = [ROOT / "docs/examples/listener.py", ROOT / "tests/types/usage.py"]
        flags = ["--strict", "--no-error-summary", "--ignore-missing-imports", "--cache-dir", str(self.generated / "mypy")]
        for source, contented in [*((source, True) for source in sources), (ROOT / "tests/types/misuse.py", False)]:
            told = subprocess.run(
                [sys.executable, "-m", "mypy", *flags, str(source)],
                cwd=self.generated, env={"MYPYPATH": str(self.generated), "PATH": ""}, capture_output=True, text=True, check=False,
            )
            if contented:
                self.assertEqual((told.returncode, told.stdout + told.stderr), (0, ""))
            else:
                lines = source.read_text(encoding="utf-8").splitlines()
                expected = {number for number, line in enumerate(lines, 1) if line.endswith("# an error")}
                found = {int(number) for number in re.findall(r"misuse\.py:([0-9]+): error", told.stdout)}
                self.assertEqual(found, expected, told.stdout + told.stderr)

    def test_a_listener_on_these_types_books_each_cancelled_payment_once(self) -> None:
        listener = importlib.import_module("listener")
        books = listener.open_books(":memory:")
        bodies = [body for name, body in examples("outcomes") if name.startswith("valid.")]
        told = [listener.book(books, body) for body in bodies]
        self.assertEqual({listener.book(books, body) for body in bodies}, {"known"})
        cancelled = {
            data["item"]["merchantUniqueCode"] if data["item"] else (data["reference"] or {}).get("paymentId", data["intentId"])
            for data in (json.loads(body)["data"] for body in bodies)
            if data["status"] == "cancelled"
        }
        booked = {payment for (payment,) in books.execute("select payment from reversals")}
        self.assertEqual(booked, cancelled)
        self.assertEqual(len([line for line in told if line.startswith("reversed")]), len(cancelled))

    def test_what_the_page_for_ledger_authors_says_of_odd_references_is_so(self) -> None:
        event = (SCHEMAS / "examples/outcomes/valid.async_cancel.cancelled.json").read_text(encoding="utf-8")
        head, tail = event.split('"reference":')[0] + '"reference":', "}}"
        beyond_a_double = self.outcome.CancelOutcome.model_validate_json(head + '{"a":1e999}' + tail)
        self.assertEqual(beyond_a_double.data.reference, {"a": float("inf")})
        half = '{"a":"\\ud800"}'
        self.assertEqual(json.loads(half), {"a": "\ud800"})
        with self.assertRaises(UnicodeEncodeError):
            json.loads(half)["a"].encode("utf-8")
        with self.assertRaises(pydantic.ValidationError):
            self.outcome.CancelOutcome.model_validate_json(head + half + tail)


if __name__ == "__main__":
    Types.generated = Path(sys.argv.pop(1)).resolve()
    Types.generated.mkdir(parents=True, exist_ok=True)
    generate(Types.generated)
    sys.path[:0] = [str(Types.generated), str(ROOT / "docs/examples")]
    unittest.main()
