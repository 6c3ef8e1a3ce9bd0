"""The message that the raw prototype sends."""

import base64
import json

from benchmarks.prototype import template


def test_a_message_has_the_id_and_the_tag_where_they_belong():
    one, two, three, four, five = template("tasks.add", (1, 2))
    message = json.loads(b"".join((one, b"id", two, b"id", three, b"id", four, b"7", five)))
    assert (message["headers"]["id"], message["headers"]["root_id"]) == ("id", "id")
    assert message["properties"]["correlation_id"] == "id"
    assert message["properties"]["delivery_tag"] == "7"
    assert message["headers"]["task"] == "tasks.add"
    assert json.loads(base64.b64decode(message["body"]))[:2] == [[1, 2], {}]
