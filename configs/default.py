"""Every setting there is, at the published values; other configs start from here.

Lists below are in the order in which data meets them. `--config.section.name=value` overrides any.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    # Compute type of autoencoder and denoiser: "float32" or "bfloat16"; parameters are always
    # float32, and so are the extractor's features.
    config.dtype = "float32"

    config.data = ConfigDict()
    config.data.source = "mvtec"
    config.data.root = ""
    # Empty: every category under the root, one after the other, each in a folder of its own.
    config.data.category = ""
    config.data.size = 256
    # "stretch", "pad" or "crop" to a square.
    config.data.resize = "stretch"
    # Large images are cut into squares of `tile` pixels that share at least `overlap` pixels, each
    # then brought to `size`; tile 0: images stay whole.
    config.data.tiling = ConfigDict({"tile": 0, "overlap": 0})
    # "error", or "skip" with a warning, for a training or test image that cannot be read.
    config.data.on_unreadable = "error"
    # Share of the normal training images kept from all training, for calibration and validation.
    config.data.heldout_fraction = 0.1
    # Empty: in the working directory.
    config.data.cache = ""
    # Changes of training images that leave a good part good, as `ddad_jax.data.augment` documents
    # them; with any, latents are encoded anew at each step.
    config.data.augmentation = ConfigDict(
        {
            "horizontal_flip": False,
            "vertical_flip": False,
            "quarter_turns": False,
            "max_rotation": 0.0,
            "max_shift": 0.0,
        }
    )
    # By category, what of these is different there: {"screw": {"max_rotation": 45.0}}.
    config.data.category_augmentation = ConfigDict()
    # Settings of the source's own.
    config.data.settings = ConfigDict()

    config.diffusion = ConfigDict()
    config.diffusion.beta_start = 0.0015
    config.diffusion.beta_end = 0.0195
    config.diffusion.num_timesteps = 1000

    config.autoencoder = ConfigDict()
    config.autoencoder.name = "kl"
    # The module's attributes, in ddad_jax/models; networks below likewise.
    config.autoencoder.network = ConfigDict()
    # Weights by name or path; empty: trained from scratch.
    config.autoencoder.weights = ""
    # z = scale · E(x); 0: each channel is brought to mean 0 and deviation 1 on the training images.
    config.autoencoder.latent_scale = 0.18215
    config.autoencoder.feature_weight = 1.0
    config.autoencoder.latent_weight = 1e-6
    # Side in pixels of the random squares it is trained on; 0: whole images.
    config.autoencoder.crop_size = 0
    config.autoencoder.training = training_settings(batch_size=16, epochs=600)

    config.denoiser = ConfigDict()
    config.denoiser.network = ConfigDict(
        {
            "base_channels": 192,
            "channel_multipliers": (1, 2, 2, 4, 4),
            "num_res_blocks": 2,
            "attention_resolutions": (32, 16, 8, 4),
            "num_heads": 8,
            "remat": False,
        }
    )
    config.denoiser.weights = ""
    # Training timesteps are drawn below this; 0: from the whole schedule.
    config.denoiser.max_timestep = 0
    # What it outputs: "noise", "velocity" or "latent".
    config.denoiser.prediction = "noise"
    # "plain" or "min_snr".
    config.denoiser.weighting = "plain"
    config.denoiser.training = training_settings(batch_size=30, epochs=300)

    config.extractor = ConfigDict()
    config.extractor.name = "resnet34"
    config.extractor.network = ConfigDict()
    config.extractor.weights = "resnet34"
    # Adaptation to the domain; 0 steps and 0 epochs leave the extractor as it is.
    config.extractor.distillation_weight = 0.0
    config.extractor.training = training_settings(batch_size=16)
    # Adaptation stops when held-out images gain nothing, and is skipped where they never do.
    config.extractor.training.validate_every = 20

    # As `ddad_jax.detection.detector.Settings` documents them.
    config.detection = ConfigDict()
    config.detection.noise_level = "dynamic"
    config.detection.max_noise_level = 80
    config.detection.num_bins = 10
    config.detection.min_bin = 2
    config.detection.bin_spacing = "equidistant"
    config.detection.num_neighbours = 20
    config.detection.metric = "l1"
    config.detection.leave_one_out = True
    config.detection.knn_stage = 2
    config.detection.start = "scaled"
    config.detection.num_steps = 10
    config.detection.conditioning_weight = 4.0
    config.detection.stochasticity = 0.0
    config.detection.feature_stages = (2, 3)
    config.detection.feature_pooling = 1
    config.detection.latent_weight = 0.85
    config.detection.blur = 4.0
    config.detection.scoring = "fused"
    config.detection.patch_stages = (2, 3)
    config.detection.patch_weight = 0.65

    # As `ddad_jax.detection.build.BuildSettings` documents them.
    config.build = ConfigDict()
    config.build.patch_bank_size = 8192
    config.build.patch_candidates = 65536
    config.build.calibration_size = 100
    config.build.false_alarm_rate = 0.01
    config.build.batch_size = 16

    # "exact", MVTec AD's definitions, or "paper", which adds what the official code computes.
    config.evaluation = ConfigDict()
    config.evaluation.protocol = "exact"
    # Of maps and masks: "network", data.size square, or "original", as tiled images always have.
    config.evaluation.resolution = "network"

    # As `ddad_jax.benchmark.run.BenchmarkSettings` documents them.
    config.benchmark = ConfigDict()
    config.benchmark.dtypes = ("float32", "bfloat16")
    config.benchmark.batch_sizes = (1, 8)
    config.benchmark.train_batch_size = 16
    config.benchmark.rounds = 3
    config.benchmark.repeats = 7
    config.benchmark.max_seconds = 10.0
    config.benchmark.bank_rows = 200
    config.benchmark.devices = (1,)
    config.benchmark.model = (1,)
    config.benchmark.scaling_batch_size = 16

    config.mesh = ConfigDict()
    # Categories that are trained at a time, each on devices of its own.
    config.mesh.category = 1
    # Devices that share a batch, each with all parameters; -1: all that there are for a category.
    config.mesh.data = -1
    # Devices that share a batch and the parameters.
    config.mesh.model = 1
    return config.lock()


def training_settings(batch_size: int, steps: int = 0, epochs: int = 0) -> ConfigDict:
    """As `ddad_jax.training.state.TrainSettings` documents them."""
    settings = ConfigDict()
    settings.steps = steps
    settings.epochs = epochs
    settings.batch_size = batch_size
    settings.learning_rate = 1e-4
    settings.schedule = "constant"
    settings.warmup_steps = 0
    settings.weight_decay = 0.01
    settings.clip_norm = 1.0
    settings.ema_decay = 0.0
    settings.checkpoint_every = 200
    settings.log_every = 20
    settings.max_skipped = 10
    settings.validate_every = 0
    settings.patience = 3
    settings.sample_every = 1000
    settings.trace_steps = ""
    settings.accumulate = 1
    return settings
