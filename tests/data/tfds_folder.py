"""Write a data set as TFDS lays it out, without TensorFlow."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

FEATURES = "tensorflow_datasets.core.features"


def features(classes: Sequence[str], several: bool = False) -> dict:
    label = {
        "pythonClassName": f"{FEATURES}.class_label_feature.ClassLabel",
        "classLabel": {"numClasses": str(len(classes))},
    }
    if several:
        label = {
            "pythonClassName": f"{FEATURES}.sequence_feature.Sequence",
            "sequence": {"feature": label, "length": "-1"},
        }
    image = {
        "pythonClassName": f"{FEATURES}.image_feature.Image",
        "image": {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8", "encodingFormat": "png"},
    }
    inner = {"image": image, "label": label}
    return {"pythonClassName": f"{FEATURES}.features_dict.FeaturesDict", "featuresDict": {"features": inner}}


def write(top: Path, splits: Mapping[str, Sequence[int | list[int]]], classes: Sequence[str], **how) -> Path:
    """Write TOP/tiny/1.0.0 with an image for each label."""
    from tensorflow_datasets.proto import tf_example_pb2

    folder, rng = top / "tiny" / "1.0.0", np.random.default_rng(0)
    folder.mkdir(parents=True)
    several = any(isinstance(one, list) for labels in splits.values() for one in labels)
    (folder / "features.json").write_text(json.dumps(features(classes, several)))
    (folder / "label.labels.txt").write_text("\n".join(classes) + "\n")
    info = {"name": "tiny", "version": "1.0.0", "fileFormat": how.get("format", "array_record"), "splits": []}
    for split, labels in splits.items():
        suffix = info["fileFormat"]
        writer = ArrayRecordWriter(str(folder / f"tiny-{split}.{suffix}-00000-of-00001"), "group_size:1")
        for label in labels:
            buffer, example = io.BytesIO(), tf_example_pb2.Example()
            Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(buffer, "PNG")
            example.features.feature["image"].bytes_list.value.append(buffer.getvalue())
            example.features.feature["label"].int64_list.value.extend(label if several else [label])
            writer.write(example.SerializeToString())
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        info["splits"].append(
            {"name": split, "numBytes": "1", "shardLengths": [str(len(labels))], "filepathTemplate": template}
        )
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return top
