"""Every config key that anchorkit adds to detectron2's, with its meaning, range and source."""

from detectron2.config import CfgNode


def add_anchorkit_config(cfg: CfgNode) -> None:
    """Add anchorkit's keys, with their defaults, to a detectron2 config.

    Args:
        cfg: a config from :func:`detectron2.config.get_cfg`; changed in place.
    """
    _add_data_keys(cfg)
    _add_solver_keys(cfg)
    _add_backbone_keys(cfg)
    _add_semi_anchored_keys(cfg)
    _add_ssd_keys(cfg)
    _add_fcos_keys(cfg)
    _add_foveabox_keys(cfg)
    _add_dsla_keys(cfg)
    _add_classifier_keys(cfg)
    _add_oat_keys(cfg)
    _add_indeed_keys(cfg)


def _add_data_keys(cfg: CfgNode) -> None:
    # Data sets of the user's own in COCO format: a list of [name, json, image_folder]. The names
    # can then stand in DATASETS.TRAIN and TEST. Relative paths start at the working directory.
    cfg.DATASETS.COCO_FORMAT = []
    # Classification sets of the user's own: a list of [name, folder]; the folder has a sub-folder
    # of images for each class. The names can then stand in DATASETS.TRAIN and TEST.
    cfg.DATASETS.IMAGE_FOLDERS = []
    # A multi-label set has the name of a detection set and "_multi_label": voc_2007_trainval_... .
    node = CfgNode()
    # Training images with fewer classes are left out: 0 keeps all, 1 drops those without objects, 2
    # is the INDeeD paper's "Split". Evaluations tell all images and those of one class apart.
    node.MIN_CLASSES_TRAIN = 0
    # VOC's classes whose objects in an image are all difficult: "positive" (the paper's counts),
    # "negative", or "ignore" (neither learned nor ranked).
    node.DIFFICULT_TRAIN = "positive"
    node.DIFFICULT_TEST = "positive"
    # Composed sets (ml_mnist_5_train): images lie in "random" cells of the 3 x 3, or in "fixed"
    # ones (one after the other; a single one in the middle).
    node.CELLS = "random"
    # Compose other images in every epoch.
    node.FRESH = False
    cfg.DATASETS.MULTI_LABEL = node
    # Look at all annotations and image files before training and log one table of what is there.
    cfg.DATASETS.CHECK = True
    # False: invalid boxes are dropped with a count. True: the first one stops the run.
    cfg.DATASETS.STRICT = False
    # Augmentation of training images: "detectron2" (INPUT's other keys) or "ssd" (photometric
    # distortion, expansion, crop by IoU; needs FIXED_SIZE; of the other keys RANDOM_FLIP counts).
    cfg.INPUT.AUGMENTATION = "detectron2"
    # Images become squares of this side, in training and in testing, and their ratio is not kept.
    # 0: they are resized by INPUT.MIN_SIZE_*; small images of a classifier stay as they are.
    cfg.INPUT.FIXED_SIZE = 0
    # Classifier: "squash" (the ratio is lost) or "crop" (the middle square) for files' images.
    cfg.INPUT.RESIZE = "squash"
    # From here to MIXUP, and RANDOM_FLIP after SHIFT: what is done to a classifier's images in
    # training, in this order, to each image by its own draw.
    # A part of at least this share of the area, its ratio 3/4 to 4/3, is resized to the image's
    # size. 0: none.
    cfg.INPUT.RANDOM_RESIZED_CROP = 0.0
    # torchvision's RandAugment: operations on an image, and their strength from 0 to 30.
    cfg.INPUT.RANDAUGMENT = CfgNode({"NUM_OPS": 0, "MAGNITUDE": 9})
    # Images are moved by up to so many pixels, what comes in is black.
    cfg.INPUT.SHIFT = 0
    # A square of this side in pixels is black. Its centre is anywhere in the image, so that it may
    # reach over the border. 0: none.
    cfg.INPUT.CUTOUT = 0
    # Images and labels are mixed by a share from Beta(MIXUP, MIXUP), one for a batch. 0: none.
    cfg.INPUT.MIXUP = 0.0
    # Classifier: a last batch that is not full is left out of an epoch.
    cfg.DATALOADER.DROP_LAST = False
    # Images in a batch at evaluation, per process. detectron2 uses 1.
    cfg.TEST.IMS_PER_BATCH = 1
    # Evaluate after every so many epochs of a classifier, in place of EVAL_PERIOD. 0: do not.
    cfg.TEST.EVAL_EPOCHS = 0
    # Pictures of detections beside ground truth that an evaluation draws, per data set, and shows
    # in TensorBoard; with them come curves and confusion. 0: nothing is drawn.
    cfg.TEST.NUM_PICTURES = 8
    # Report how well scores tell the localisation of boxes, with a plot; takes two passes.
    cfg.TEST.SCORE_QUALITY = False
    # Each evaluation also computes the training losses on DATASETS.TEST: "validation/loss" and its
    # parts, in batches of training's size, without augmentation. The training stays the same.
    cfg.TEST.VALIDATION_LOSS = False
    # detectron2's TEST.AUG.ENABLED: dense detectors are evaluated a second time, after training and
    # by --eval-only, on images of MIN_SIZES (the shorter side, from the file; MAX_SIZE bounds the
    # longer one) and mirrored (FLIP). All boxes meet in one suppression; results end in "_TTA".


def _add_solver_keys(cfg: CfgNode) -> None:
    # Number of classes of every anchorkit model. 0: taken from the first data set's metadata.
    cfg.MODEL.NUM_CLASSES = 0
    # Classifier: epochs to train, in place of MAX_ITER. 0: MAX_ITER counts.
    cfg.SOLVER.MAX_EPOCHS = 0
    # "SGD" (with MOMENTUM and NESTEROV), "Adam" (WEIGHT_DECAY is added to the gradient) or "AdamW".
    cfg.SOLVER.OPTIMIZER = "SGD"
    # LR_SCHEDULER_NAME is detectron2's "WarmupMultiStepLR" or "WarmupCosineLR", or torch's, which
    # do not warm up: "SGDR" (CosineAnnealingWarmRestarts) or "OneCycleLR" (up to BASE_LR and down
    # over MAX_ITER, while MOMENTUM, or Adam's first beta, goes from 0.95 to 0.85 and back).
    # "WarmupMultiStepLR": multiply the rate by GAMMA after every so many epochs of a classifier, in
    # place of STEPS. 0: STEPS counts.
    cfg.SOLVER.STEP_EPOCHS = 0
    # "SGDR": the first cycle lasts EPOCHS of a classifier, or if that is 0 so many ITERS, and each
    # later one MULTIPLY times as long as the one before.
    cfg.SOLVER.SGDR = CfgNode({"EPOCHS": 20, "ITERS": 0, "MULTIPLY": 2})
    # Keep images and weights in channels-last order: faster on CPUs and on GPUs with AMP.
    cfg.MODEL.CHANNELS_LAST = False
    # Compile body and head with torch.compile when they first run, which takes minutes for a
    # detector; a CPU needs a C++ compiler.
    cfg.MODEL.COMPILE = False
    # Batches of IMS_PER_BATCH images whose gradients are averaged before one optimizer step.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # Write the training metrics (and synchronise the GPU) every so many iterations.
    cfg.SOLVER.METRIC_PERIOD = 20
    # Metric that decides which checkpoint is kept as model_best.pth. "": none is kept. Any name in
    # metrics.json that an evaluation makes, with several test sets "<data set>/bbox/AP".
    cfg.SOLVER.BEST_METRIC = "bbox/AP"
    # Its best value is the "max" or the "min"; "auto": min for losses and errors, by the name.
    cfg.SOLVER.BEST_METRIC_MODE = "auto"
    # Training ends after PATIENCE evaluations in a row in which BEST_METRIC was not better than
    # before by more than MIN_DELTA. 0: it does not.
    cfg.SOLVER.EARLY_STOP = CfgNode({"PATIENCE": 0, "MIN_DELTA": 0.0})
    # Images a step (IMS_PER_BATCH x ACCUMULATION_STEPS) that BASE_LR is for: with another number it
    # is multiplied by their ratio. Warm-up and schedule keep their iterations. 0: BASE_LR stays.
    # REFERENCE_WORLD_SIZE, detectron2's, scales the outcome with the batch and the iterations.
    cfg.SOLVER.REFERENCE_BATCH = 0
    # Exponential moving average of the weights. It is evaluated in place of the raw weights, and
    # saved beside them in each checkpoint. The decay of update k is min(DECAY, (1 + k) / (10 + k)).
    cfg.SOLVER.EMA = CfgNode({"ENABLED": False, "DECAY": 0.9998})


def _add_backbone_keys(cfg: CfgNode) -> None:
    # Where P6 comes from: "p5" (FCOS, semi-anchored) or "res5" (RetinaNet, FoveaBox); "none" ends
    # the pyramid at P5.
    cfg.MODEL.FPN.TOP_BLOCK_IN_FEATURE = "p5"
    # P7 is a convolution of ReLU(P6), or of P6 itself (mmdetection's FoveaBox).
    cfg.MODEL.FPN.TOP_BLOCK_RELU = True
    # build_library_fpn_backbone: any classifier of a library that has maps of FPN.IN_FEATURES. Its
    # maps are named as a ResNet's: "res2" has stride 4, "res5" 32. BACKBONE.FREEZE_AT n: the layers
    # up to the map of stride 2^n are not trained.
    node = CfgNode()
    # "torchvision/" or "timm/" and the library's name of the model.
    node.NAME = "torchvision/resnet50"
    # Its batch normalisation, if it has any: "BN", "SyncBN" (statistics of all processes) or
    # "FrozenBN" (statistics, scale and shift stay as they are).
    node.NORM = "FrozenBN"
    # Share of training images that skip the deepest residual branch; it rises linearly from 0.
    node.DROP_PATH = 0.0
    cfg.MODEL.LIBRARY_BODY = node


def _add_semi_anchored_keys(cfg: CfgNode) -> None:
    # Semi-Anchored Detector; A1 to A23 are the decisions in projects/semi_anchored/METHOD.md.
    node = CfgNode()
    node.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # Convolutions of each of the two towers, and their normalisation.
    node.NUM_CONVS = 4
    node.NORM = "GN"
    # Initial foreground probability of the location classifier and of the anchor classifier (A14).
    node.PRIOR_PROB = 0.01
    node.ANCHOR_PRIOR_PROB = 0.01

    # --- labels ---
    # Who labels a location: "anchors" (the paper), "fcos" or "fcos_shrink" (Table 3).
    node.LABELING = "anchors"
    # "fcos_shrink": boxes are shrunk by this factor around their centre before labelling (A19).
    node.SHRINK = 0.5
    # "fcos", "fcos_shrink": upper ends of the levels' ranges of the largest side distance, pixels.
    node.FCOS_RANGES = [64.0, 128.0, 256.0, 512.0]
    # IoU of an anchor with a box from which on it is positive, and below which it is background.
    # Between the two it is ignored; equal values mean no band (A7).
    node.IOU_THRESHOLDS = [0.5, 0.5]
    # The best anchors of each box are positive whatever their IoU is, if that is above 0 (A9).
    node.LOW_QUALITY_MATCHES = True
    # Location with ignored and no positive anchors: ignored (True) or background (A8).
    node.IGNORE_LOCATIONS = True
    # Weight of background in the vote of eq. 1, in [0, 1). 0 means eq. 4: a location is background
    # only if all its anchors are. By Proposition 1 every value below 1 / K is the same.
    node.GAMMA = 0.0

    # --- location classification ---
    # "focal": a sigmoid for each class. "softmax": over the classes and background, of which only
    # LOCATION_NEGATIVE_RATIO locations for each positive one are learned, as SSD does.
    node.LOCATION_LOSS = "focal"
    node.LOCATION_NEGATIVE_RATIO = 3.0
    node.LOCATION_FOCAL_ALPHA = 0.25
    node.LOCATION_FOCAL_BETA = 1.0

    # --- box regression ---
    # Anchors that are regressed at a positive location: "positive", "all" or "best" (A1).
    node.REGRESSED_ANCHORS = "positive"
    # Target of a regressed anchor: the box it overlaps most ("anchor") or the location's (A2).
    node.REGRESSION_TARGET = "anchor"
    # "iou_log" (-log IoU), "iou_linear" (1 - IoU), "giou" (A11), "smooth_l1" (of the box code).
    node.BOX_LOSS = "iou_log"
    node.BOX_LOSS_WEIGHT = 2.0
    # Weights of the (dx, dy, dw, dh) box code (A12).
    node.BBOX_REG_WEIGHTS = [10.0, 10.0, 5.0, 5.0]

    # --- anchor classification ---
    # "smoothed_focal" (eqs 2 and 3), "focal" (hard labels, Table 5), "quality_focal".
    node.ANCHOR_LOSS = "smoothed_focal"
    node.ANCHOR_LOSS_WEIGHT = 1.0
    node.ANCHOR_FOCAL_ALPHA = 0.25
    node.ANCHOR_FOCAL_BETA = 2.0
    # Exponent sigma of eq. 2.
    node.SIGMA = 0.9
    # A refined anchor is matched with all boxes of the location's class ("class") or with the
    # location's box alone ("location") (A3), and is positive from this IoU on (A4).
    node.REFINED_MATCH = "class"
    node.REFINED_IOU_THRESHOLD = 0.5
    # Make the best refined anchor positive where none reaches the threshold (A5).
    node.FORCE_BEST_REFINED = False

    # --- inference ---
    # "top" (TOPK best anchors of a location), "positive" (all anchors above ANCHOR_THRESH_TEST) or
    # "random" (one random anchor scored by its location alone: Table 2, without the classifier).
    node.ANCHOR_SELECTION = "top"
    node.ANCHOR_TOPK = 1
    node.ANCHOR_THRESH_TEST = 0.1
    # The score threshold is compared with the location's score, or with the product (A16).
    node.THRESHOLD_ON = "location"
    node.SCORE_THRESH_TEST = 0.05
    node.TOPK_CANDIDATES_TEST = 1000
    node.NMS_THRESH_TEST = 0.5
    cfg.MODEL.SEMI_ANCHORED = node


def _add_fcos_keys(cfg: CfgNode) -> None:
    # FCOS, and FCOSv2 with the values in brackets.
    node = CfgNode()
    node.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # Convolutions of each of the two towers, and their normalisation.
    node.NUM_CONVS = 4
    node.NORM = "GN"
    # Convolutions of the towers have a bias although GN follows, as in torchvision's FCOS. (True)
    node.CONV_BIAS = False
    # The last convolution of each tower is deformable and modulated. (DSLA's Table 4)
    node.DEFORMABLE_TOWER = False
    # Initial foreground probability of the classifier.
    node.PRIOR_PROB = 0.01
    # Distance of the first location from the image's corner, in strides. The code that made DSLA's
    # published figures has 0.0.
    node.POINT_OFFSET = 0.5
    # Upper ends of the levels' ranges of the largest side distance, pixels; the last level has
    # none. They follow the size of the input: these are for 800 pixels.
    node.SIZE_RANGE_ENDS = [64.0, 128.0, 256.0, 512.0]
    # Positive locations lie nearer to the centre than so many strides; 0: no limit. (1.5)
    node.CENTER_SAMPLING_RADIUS = 0.0
    # Distances are "exp" or "relu" of the scaled outputs, in units of a "pixel" or of the level's
    # "stride". ("relu", "stride")
    node.BOX_ACTIVATION = "exp"
    node.BOX_UNIT = "pixel"
    # "iou_log" (-log IoU), "iou_linear" (1 - IoU), "giou". ("giou")
    node.BOX_LOSS = "iou_log"
    node.BOX_LOSS_WEIGHT = 1.0
    # The tower that predicts centerness: "class" or "box". ("box")
    node.CENTERNESS_TOWER = "class"
    node.FOCAL_ALPHA = 0.25
    node.FOCAL_GAMMA = 2.0
    # --- inference: the class score must exceed the threshold before it meets centerness ---
    node.SCORE_THRESH_TEST = 0.05
    node.TOPK_CANDIDATES_TEST = 1000
    node.NMS_THRESH_TEST = 0.6
    cfg.MODEL.FCOS = node


def _add_foveabox_keys(cfg: CfgNode) -> None:
    node = CfgNode()
    node.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # Convolutions of each of the two towers, and their normalisation: "" or "GN".
    node.NUM_CONVS = 4
    node.NORM = ""
    # The last convolution of each tower is deformable and modulated.
    node.DEFORMABLE_TOWER = False
    # Initial foreground probability of the classifier.
    node.PRIOR_PROB = 0.01
    # Distance of the first location from the image's corner, in strides.
    node.POINT_OFFSET = 0.5
    # Square roots of the box areas that each level takes, pixels, for an input of 800 pixels.
    node.SIZE_RANGES = [[1.0, 64.0], [32.0, 128.0], [64.0, 256.0], [128.0, 512.0], [256.0, 2048.0]]
    # Side of the fovea, where locations are positive, relative to the box's.
    node.SIGMA = 0.4
    # Unit of the side distances on each level, pixels, for an input of 800 pixels.
    node.BASE_EDGES = [16.0, 32.0, 64.0, 128.0, 256.0]
    # Smooth L1 on the logarithms of the distances.
    node.SMOOTH_L1_BETA = 0.11
    node.BOX_LOSS_WEIGHT = 1.0
    node.FOCAL_ALPHA = 0.4
    node.FOCAL_GAMMA = 1.5
    node.SCORE_THRESH_TEST = 0.05
    node.TOPK_CANDIDATES_TEST = 1000
    node.NMS_THRESH_TEST = 0.5
    cfg.MODEL.FOVEABOX = node


def _add_dsla_keys(cfg: CfgNode) -> None:
    # Dynamic Smooth Label Assignment on FCOS, FCOSv2 or FoveaBox. All three improvements off is
    # the paper's "Impr 0"; see projects/dsla/METHOD.md.
    node = CfgNode()
    node.ENABLED = False
    # Labels of 1 within half a stride of a box's centre (eqs 5 and 6).
    node.CORE_ZONE = True
    # The levels' size ranges end in linear ramps, KAPPA of each end wide (eqs 3 and 4).
    node.INTERVAL_RELAXATION = True
    node.KAPPA = 0.2
    # Labels are multiplied by the IoU of the predicted box with its ground truth (eq. 8).
    node.IOU_COUPLING = True
    # That IoU alone is the label ("IoU only" in the paper's text).
    node.IOU_ONLY = False
    # Quality focal loss: its exponent and its weight.
    node.QUALITY_FOCAL_BETA = 2.0
    node.CLASS_LOSS_WEIGHT = 1.0
    # What the class loss is divided by: "label_sum" (the published figures) or "num_positives"
    # (eq. 9 as printed).
    node.CLASS_NORMALIZER = "label_sum"
    # Weight of a location's box loss: its "label" before coupling (the published figures), the
    # "coupled" label, "ones" (eq. 9 as printed) or its "class_score".
    node.BOX_WEIGHT = "label"
    # FoveaBox: the size that is compared with the levels' ranges is the "sqrt_area" with
    # FOVEABOX.SIZE_RANGES, or the "max_distance" with FCOS.SIZE_RANGE_ENDS.
    node.FOVEABOX_SIZE = "sqrt_area"
    cfg.MODEL.DSLA = node


def _add_ssd_keys(cfg: CfgNode) -> None:
    # SSD (Liu et al., 2016); the defaults are SSD300's on COCO. One row of a table for each map.
    node = CfgNode()
    # Convolutions in each of the body's five stages (VGG-16), by which number all widths are
    # divided, and the normalisation after every convolution ("" is the paper's: none).
    node.CONVS_PER_STAGE = [2, 2, 3, 3, 3]
    node.WIDTH_DIVISOR = 1
    # Of conv6, 6 for a map of 19 x 19 locations.
    node.DILATION = 6
    node.NORM = ""
    # Layers after conv7: channels of the 1x1, channels, kernel, stride and padding of the second.
    node.EXTRA_LAYERS = [[256, 512, 3, 2, 1], [128, 256, 3, 2, 1], [128, 256, 3, 1, 0],
                         [128, 256, 3, 1, 0]]  # fmt: skip
    # Anchors of a map: squares of side SIZES[l] and sqrt(SIZES[l] SIZES[l + 1]), pixels, and for
    # each ratio r those of SIZES[l] with width : height r and 1 / r. SIZES has one entry more.
    node.SIZES = [21.0, 45.0, 99.0, 153.0, 207.0, 261.0, 315.0]
    node.ASPECT_RATIOS = [[2.0], [2.0, 3.0], [2.0, 3.0], [2.0, 3.0], [2.0], [2.0]]
    # Distances of the anchors' centres, pixels; the first one is half a stride from the border.
    node.STRIDES = [8.0, 16.0, 32.0, 64.0, 100.0, 300.0]
    # Anchors are no wider and no higher than the image (torchvision); False: the paper's.
    node.CLIP_ANCHORS = True
    # IoU from which on an anchor is positive; each box's best anchor is, too.
    node.IOU_THRESHOLD = 0.5
    # Background anchors that are learned for each positive one of an image, hardest first.
    node.NEGATIVE_RATIO = 3.0
    # Weights of the (dx, dy, dw, dh) box code: the inverse of the variances 0.1 and 0.2.
    node.BBOX_REG_WEIGHTS = [10.0, 10.0, 5.0, 5.0]
    # Where smooth L1 turns from a square into a line, and the weight of the box loss.
    node.SMOOTH_L1_BETA = 1.0
    node.BOX_LOSS_WEIGHT = 1.0
    # Boxes that enter the suppression: those above the threshold, so many of each class.
    node.SCORE_THRESH_TEST = 0.02
    node.TOPK_CANDIDATES_TEST = 400
    node.NMS_THRESH_TEST = 0.45
    cfg.MODEL.SSD = node


def _add_classifier_keys(cfg: CfgNode) -> None:
    # ImageClassifier: MODEL.BACKBONE.NAME, one linear layer, and the method that trains them.
    node = CfgNode()
    # "cross_entropy" or "oat"; of multi-label sets "binary_cross_entropy" or "indeed".
    node.METHOD = "cross_entropy"
    # Output of the body that is pooled and classified: "features"; "maps": only the convolutions of
    # torchvision's bodies; "res5" of detectron2's ResNets.
    node.FEATURE = "features"
    # build_torchvision_body and build_timm_body: the library's name of the model.
    node.BODY = "resnet18"
    # Share of the features that are dropped before the last layer, in training.
    node.DROPOUT = 0.0
    # Share of each label that is spread evenly over all classes.
    node.LABEL_SMOOTHING = 0.0
    cfg.MODEL.CLASSIFIER = node
    # build_simple_cnn: channels of its convolutions and of its hidden layer.
    cfg.MODEL.SIMPLE_CNN = CfgNode({"CHANNELS": [32, 64, 128], "HIDDEN": 128})
    # build_wide_resnet: number of convolutions, factor of the channels, dropout in each block.
    cfg.MODEL.WIDE_RESNET = CfgNode({"DEPTH": 28, "WIDTH": 10, "DROPOUT": 0.0})


def _add_oat_keys(cfg: CfgNode) -> None:
    # Online Anchor-based Training; see projects/oat/METHOD.md.
    node = CfgNode()
    # Epochs of cross entropy before the switch, of SOLVER.MAX_EPOCHS.
    node.PRETRAIN_EPOCHS = 10
    # Forget the optimizer's momentum at the switch.
    node.RESET_OPTIMIZER = True
    # The centre is the mean of the outputs' "softmax_mean" (the authors' code), of the outputs as
    # eq. 1 is printed ("mean": not stable), or nothing ("uniform": the anchor is 1 / K).
    node.ANCHOR = "softmax_mean"
    # No entry of the anchor is below this. "mean" needs it: 0.1 / K.
    node.EPSILON = 0.0
    # Stop the gradient at the anchor. The authors' code lets it through.
    node.DETACH = False
    # Squared errors: "mean" over images and classes (the authors' code), or "sum_classes" (eq. 3).
    node.REDUCTION = "mean"
    # One centre over the batches of all processes.
    node.GLOBAL_CENTER = False
    # The running centre moves this share towards each batch's.
    node.MOMENTUM = 0.01
    # The "batch" protocol: images that share an anchor, seed of the first permutation, and number
    # of permutations that its accuracy is averaged over.
    node.TEST_BATCH = 32
    node.TEST_SEED = 0
    node.NUM_PERMUTATIONS = 5
    cfg.MODEL.OAT = node


def _add_indeed_keys(cfg: CfgNode) -> None:
    # INDeeD on multi-label sets; see projects/indeed/METHOD.md.
    node = CfgNode()
    # Mask of what two images share: "minmax" (eq. 4) or "l2" (eq. 3).
    node.NORM = "minmax"
    # Weight of the identical and the disparate losses (eq. 6), and the share of the training in
    # which it rises linearly from 0. The paper gives neither.
    node.LAMBDA = 1.0
    node.LAMBDA_RAMP = 0.2
    # "matching": an image is in one pair at most; "independent": each draws a partner.
    node.PAIRING = "matching"
    # What an image without a partner contributes, paired with itself: "self_no_disparate" its
    # identical part, "self" both (as printed), "skip" neither.
    node.DEFAULT_PAIR = "self_no_disparate"
    # Weight of all losses of such an image; the paper's sum over pairs counts it twice.
    node.DEFAULT_PAIR_WEIGHT = 1.0
    # The two losses (Tables 4 and 5).
    node.IDENTICAL = True
    node.DISPARATE = True
    # No gradient through the mask.
    node.DETACH_MASK = False
    # Divisors of the masks are at least this.
    node.EPSILON = 1e-6
    cfg.MODEL.INDEED = node
