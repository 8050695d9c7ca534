"""Load images and what is known about them, and put them on the device.

An image goes from its file to the batch in one way, whatever the task:

- `sources`: list the records of a data set, with their fields (`load_source`); one module for each format;
- `record`: the records of a split (`Split`, `Source`); `config`: the settings (`DataConfig`, `prompts.PromptConfig`);
- `recipe`: what a view of an image is, as data (`View`); `presets`: augmentation presets by name (`PRESETS`);
- `reader`: read one record (`Reader`): its fields (`fields`), then the geometry of its views (`geometry`), then the
  image (`checks.open_image`), all moved by the same geometry;
- `pipeline`: batches through Grain (`make_train_iter`, `make_eval_iter`);
- `policies`, `policy_geometry`: automatic augmentation, drawn with the record (RandAugment, TrivialAugment, AugMix);
- `photometric`, `mixing`: colours, tones, blur, noise, JPEG, erasing, normalisation and mixing, on the device.

What these use: `crops` (Pillow), `kinds`, `channels`, `ranges`, `bands` (pixels of any depth and number of channels),
`bad_images` (what could not be read), `survey` (a look at the pixels before a run), `folders`, `layout`, `split_names`,
`splitting` (files and splits), `prompted`, `mask_reading`, `mask_survey`, `clicks` (masks of text prompts), `masking`
(hidden patches). Nothing is imported here, so that naming a source in a config does not slow down start-up.
"""
