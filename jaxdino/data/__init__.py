"""Load images and put them on the device: sources, decoding, crops, batches, augmentation.

Nothing is imported here, so naming a source in a config does not slow down start-up:

- `sources`: list the images of a data set (`load_source`, `DataConfig`);
- `checks`, `kinds`, `channels`, `ranges`, `bands`: decode one file to an image of n channels, or give the reason
  why it cannot be read (`open_image`, `Reading`, `Range`); `bad_images`: the unreadable images of a split; `survey`:
  check the pixels before a run;
- `transforms`: crop and resize on the host (uint8 output), and the augmentation presets;
- `pipeline`: batches through Grain (`make_train_iter`, `make_eval_iter`);
- `device_aug`: flips, colours, erasing, mixing and normalisation inside jit (`augment`, `normalize`);
- `views`, `multicrop`, `masking`, `device_views`: the same for the crops of self-distillation (`View`,
  `make_multicrop_iter`, `Masking`, `augment_views`);
- `prompts`, `pairs`, `pair_sources`, `pair_pipeline`: images with prompts and masks (`PromptConfig`, `Pair`,
  `load_pairs`, `make_pair_train_iter`).
"""
