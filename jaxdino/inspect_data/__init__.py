"""Check a data set before training on it: `jaxdino check-data`.

- `listing`: list the images of a data source with what is known about them (`Images`); `annotations`: the boxes of
  VOC's and COCO's files, without masks;
- `pixels`: read every image once, in threads or processes: `Facts`, one row of numbers for each image;
- `hashes`: perceptual hashes and the pairs that are close; `groups`: pairs to groups; `neighbours`: the same by the
  features of a backbone, with the cosine that `calibration` chooses; `suspects`: labels that a classifier on these
  features contradicts;
- `classes`, `boxes`, `exposure`: counts, boxes and brightness;
- `findings`: all results (`Findings`); `table`, `page` and `json_report`: show them.
"""
