"""Output formats: vectors of a span to bytes, such that the spans' bytes make the file.

span 0: begin() add() add()   span 1: add() add()   span 2: add() end()
        `-------------- one after the other: the output file -----------'
"""

from __future__ import annotations

from transforms.manifest import Span
from transforms.recipe import AVRO, JSON_LINES, Recipe
from transforms.sinks.avro import AvroSink
from transforms.sinks.json_document import JsonDocumentSink
from transforms.sinks.json_lines import JsonLinesSink

Sink = AvroSink | JsonDocumentSink | JsonLinesSink


def make_sink(recipe: Recipe, span: Span) -> Sink:
    """A new sink for one span of one file."""
    if recipe.accept == JSON_LINES:
        return JsonLinesSink(recipe.on_bad_record)
    if recipe.accept == AVRO:
        return AvroSink(recipe, span.file.output)
    return JsonDocumentSink(recipe.on_bad_record, is_first=span.start == 0)


def suffix_of(accept: str) -> str:
    """What is appended to an input's name: `.out`, or `.out.avro`."""
    return ".out.avro" if accept == AVRO else ".out"
