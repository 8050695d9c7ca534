"""Images on their way to the device: sources, decoding, crops, batches, augmentation.

Nothing is imported here, so that naming a source in a config costs no start-up time:

- `sources`: what there is to read (`load_source`, `DataConfig`);
- `checks`, `kinds`, `channels`, `ranges`, `bands`: one file to one image of n channels, or a reason why not
  (`open_image`, `Reading`, `Range`); `bad_images`: those of a split; `survey`: a look at the pixels before a run;
- `transforms`: crops and resizes on the host, uint8 out, and the augmentation presets;
- `pipeline`: batches through Grain (`make_train_iter`, `make_eval_iter`);
- `device_aug`: flips, colours, erasing, mixing and normalising inside jit (`augment`, `normalize`);
- `views`, `multicrop`, `masking`, `device_views`: the same for the crops of self-distillation (`View`,
  `make_multicrop_iter`, `Masking`, `augment_views`);
- `prompts`, `pairs`, `pair_sources`, `pair_pipeline`: images with prompts and masks (`PromptConfig`, `Pair`,
  `load_pairs`, `make_pair_train_iter`).
"""
