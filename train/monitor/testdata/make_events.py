"""Makes the golden event files of events_test.go with TensorBoard's own protocol
buffers and record writer, and reads them back with its EventAccumulator.

    pip install tensorboard==2.20.0 && python make_events.py
    python make_events.py DIR    # instead reads the event files of DIR
"""
import os
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.record_writer import RecordWriter

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "events")
TIME = 1700000000.25


def scalar(tag, v):
    return Summary.Value(tag=tag, simple_value=v)


def text(tag, s):
    return Summary.Value(
        tag=tag + "/text_summary",
        metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text")),
        tensor=TensorProto(dtype=DT_STRING, string_val=[s.encode()],
                           tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])))


def image(tag, w, h, png):
    return Summary.Value(tag=tag, image=Summary.Image(width=w, height=h, colorspace=3, encoded_image_string=png))


def session(number, position, summaries):
    with open(os.path.join(HERE, f"events.out.tfevents.{number:010d}.fewstep"), "wb") as f:
        w = RecordWriter(f)
        w.write(Event(wall_time=TIME, file_version="brain.Event:2").SerializeToString())
        w.write(Event(wall_time=TIME, step=position + 1, session_log=SessionLog(status=SessionLog.START)).SerializeToString())
        for step, values in summaries:
            w.write(Event(wall_time=TIME, step=step, summary=Summary(value=values)).SerializeToString())


def read(folder):
    a = EventAccumulator(folder, size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    a.Reload()
    out = {t: [(e.step, e.value) for e in a.Scalars(t)] for t in a.Tags()["scalars"]}
    out |= {t: [(e.step, e.width, e.height, e.encoded_image_string) for e in a.Images(t)] for t in a.Tags()["images"]}
    out |= {t: [(e.step, e.tensor_proto.string_val[0]) for e in a.Tensors(t)] for t in a.Tags()["tensors"]}
    return out


if len(sys.argv) > 1:
    for tag, values in read(sys.argv[1]).items():
        print(tag, values)
    sys.exit()

os.makedirs(HERE, exist_ok=True)
session(1, 0, [
    (16, [scalar("acc", 0.5), scalar("gap", 0.0), scalar("loss_d", 1.5), scalar("step_seconds", 0.25), text("phase", "8to4 lora-cond")]),
    (32, [scalar("acc", 0.75), scalar("gap", -2.0), scalar("loss_d", float("nan"))]),
    (32, [image("sheet", 300, 2, b"\x89PNG not really")]),
    (32, [text("note", "größer **than** " + "x" * 200)]),
    (48, [scalar("acc", 1.0)]),
])
session(2, 32, [
    (48, [scalar("acc", 0.875), text("phase", "8to4 lora-cond")]),
    (3 << 40, [scalar("fid", 12.5)]),
])
got = read(HERE)
assert got["acc"] == [(16, 0.5), (32, 0.75), (48, 0.875)], got["acc"]  # the redone step shows once
assert got["sheet"] == [(32, 300, 2, b"\x89PNG not really")], got["sheet"]
assert got["note/text_summary"][0][0] == 32, got
assert got["fid"] == [(3 << 40, 12.5)], got
