"""The built-ins, registered through the same hooks as a third party's package."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from .descriptor import Plugin, lazy
from .hookspecs import hookimpl

if TYPE_CHECKING:
    from .metrics.base import MaskMetric

_HERE = Path(__file__).parent


@hookimpl
def msdm_kit_conditioners() -> list[Plugin]:
    home = "msdm_kit.conditioners"
    return [
        Plugin(
            "hv_maps",
            "Horizontal and vertical maps of each instance.",
            lazy(f"{home}.hv_maps:HVMaps"),
            source="Graham et al. 2019, HoVer-Net",
        ),
        Plugin(
            "rgb_statistics",
            "Mean and deviation of each kind's colour, painted on its foreground.",
            lazy(f"{home}.rgb_statistics:RGBStatistics"),
        ),
        Plugin("bert_text", "Metadata as a sentence, encoded by BERT.", lazy(f"{home}.bert_text:BertText")),
        Plugin(
            "label_map",
            "One-hot labels and instance edges.",
            lazy(f"{home}.label_map:LabelMap"),
            source="Wang et al. 2022, SDM",
        ),
        Plugin(
            "reference_image",
            "A view of the appearance's image, pixel by pixel.",
            lazy(f"{home}.reference_image:ReferenceImage"),
            source="Saharia et al. 2022, Palette",
        ),
        Plugin("class_label", "A metadata column as a class.", lazy(f"{home}.class_label:ClassLabel")),
    ]


@hookimpl
def msdm_kit_injectors() -> list[Plugin]:
    home = "msdm_kit.plugins.injectors"
    return [
        Plugin(
            "spade",
            "A map modulates normalised features, pixel by pixel.",
            lazy(f"{home}.spade:Spade"),
            source="Park et al. 2019",
        ),
        Plugin(
            "cross_attention",
            "Features attend to tokens.",
            lazy(f"{home}.cross_attention:CrossAttentionInjector"),
            source="Rombach et al. 2022, section 3.3",
        ),
        Plugin(
            "film",
            "A vector modulates features, channel by channel.",
            lazy(f"{home}.film:Film"),
            source="Perez et al. 2018; ADM, section 3",
        ),
        Plugin(
            "concat",
            "A map joins the input.",
            lazy(f"{home}.concat:Concat"),
            source="Saharia et al. 2022, Palette",
        ),
    ]


@hookimpl
def msdm_kit_autoencoders() -> list[Plugin]:
    home = "msdm_kit.plugins.autoencoders"
    return [
        Plugin(
            "haar",
            "The Haar wavelet transform, exactly invertible, without weights.",
            lazy(f"{home}.haar:Haar"),
            source="Haar 1910; in diffusion: Phung et al. 2023",
        ),
        Plugin(
            "kl",
            "AutoencoderKL of diffusers, with weights that you have.",
            lazy(f"{home}.kl:KL"),
            source="Rombach et al. 2022, section 3.1",
        ),
    ]


@hookimpl
def msdm_kit_backbones() -> list[Plugin]:
    return [
        Plugin(
            "unet",
            "The U-Net of ADM and SDM.",
            lazy("msdm_kit.backbones.unet:UNet"),
            source="Dhariwal and Nichol 2021; Wang et al. 2022",
        )
    ]


@hookimpl
def msdm_kit_solvers() -> list[Plugin]:
    single, multi = "msdm_kit.core.solvers", "msdm_kit.core.multistep"
    return [
        Plugin("ddpm", "Ancestral sampling (Ho et al. 2020).", lazy(f"{single}:ddpm")),
        Plugin("ddim", "Deterministic at eta 0 (Song et al. 2021).", lazy(f"{single}:ddim")),
        Plugin("heun", "Two evaluations a step (Karras et al. 2022).", lazy(f"{single}:heun")),
        Plugin("dpmpp_2m", "DPM-Solver++(2M) (Lu et al. 2022).", lazy(f"{multi}:dpmpp_2m")),
        Plugin("unipc", "Predictor and corrector (Zhao et al. 2023).", lazy(f"{multi}:unipc")),
    ]


@hookimpl
def msdm_kit_recipes() -> list[Plugin]:
    return _yaml_files("recipes")


@hookimpl
def msdm_kit_plans() -> list[Plugin]:
    return _yaml_files("plans")


def _yaml_files(folder: str) -> list[Plugin]:
    """The files of a folder by name, with the summary that each gives of itself."""
    found = []
    for path in sorted((_HERE / folder).glob("*.yaml")):
        summary = str(yaml.safe_load(path.read_text(encoding="utf-8"))["summary"])
        found.append(Plugin(path.stem, summary, partial(Path, path)))
    return found


@hookimpl
def msdm_kit_datasets() -> list[Plugin]:
    return [
        Plugin(
            "histology-nuclei",
            "Small histology fields with nucleus and cell masks, for the quickstart.",
            partial(Path, _HERE / "datasets" / "histology-nuclei"),
        )
    ]


@hookimpl
def msdm_kit_importers() -> list[Plugin]:
    home = "msdm_kit.plugins.importers"
    return [
        Plugin("ascii", "Text masks of the MICCAI nuclei challenges.", lazy(f"{home}.ascii:ASCII")),
        Plugin("cellpose", "Cellpose: x_masks, x_cp_masks, x_seg.npy.", lazy(f"{home}.cellpose:Cellpose")),
        Plugin("coco", "COCO instances: polygons and run-length codes.", lazy(f"{home}.coco:COCO")),
        Plugin("consep", "CoNSeP and others: .mat with inst_map.", lazy(f"{home}.consep:CoNSeP")),
        Plugin("dsb2018", "Data Science Bowl 2018: folders, or CSV.", lazy(f"{home}.dsb2018:DSB2018")),
        Plugin(
            "hovernet_output",
            "What HoVer-Net writes for tiles: mat or json.",
            lazy(f"{home}.hovernet_output:HoVerNetOutput"),
        ),
        Plugin("monuseg", "Aperio ImageScope XML, as of MoNuSeg.", lazy(f"{home}.monuseg:MoNuSeg")),
        Plugin("native", "The layout of msdm-kit itself.", lazy(f"{home}.native:Native")),
        Plugin("nuinsseg", "NuInsSeg: label TIFF or ImageJ outlines.", lazy(f"{home}.nuinsseg:NuInsSeg")),
        Plugin("pannuke", "PanNuke: folds of .npy, or their ZIPs.", lazy(f"{home}.pannuke:PanNuke")),
        Plugin("qupath", "QuPath GeoJSON: cells or annotations.", lazy(f"{home}.qupath:QuPath")),
        Plugin("stardist", "StarDist: images/x and masks/x.", lazy(f"{home}.stardist:StarDist")),
    ]


@hookimpl
def msdm_kit_mask_operations() -> list[Plugin]:
    home = "msdm_kit.plugins.mask_operations"
    return [
        Plugin("drop_instances", "Fewer instances.", lazy(f"{home}.drop_instances:DropInstances")),
        Plugin(
            "duplicate_instances",
            "Turned copies of instances in free space.",
            lazy(f"{home}.duplicate_instances:DuplicateInstances"),
        ),
        Plugin("elastic", "A smooth random deformation.", lazy(f"{home}.elastic:Elastic")),
        Plugin("flip_turn", "Flips and quarter turns of the field.", lazy(f"{home}.flip_turn:FlipTurn")),
        Plugin("mix", "Instances of another field in free space.", lazy(f"{home}.mix:Mix")),
        Plugin(
            "move_instances",
            "Instances shifted, none over another.",
            lazy(f"{home}.move_instances:MoveInstances"),
        ),
        Plugin(
            "scale_instances", "Instances larger or smaller.", lazy(f"{home}.scale_instances:ScaleInstances")
        ),
    ]


@hookimpl
def msdm_kit_exporters() -> list[Plugin]:
    home = "msdm_kit.plugins.exporters"
    return [
        Plugin("cellpose", "Cellpose: x.tif with x_masks.tif.", lazy(f"{home}.cellpose:Cellpose")),
        Plugin("coco", "COCO instances: run-length codes and pictures.", lazy(f"{home}.coco:COCO")),
        Plugin("consep", "CoNSeP: Images/x.png, Labels/x.mat.", lazy(f"{home}.consep:CoNSeP")),
        Plugin("hovernet", "HoVer-Net's training patches: x.npy.", lazy(f"{home}.hovernet:HoVerNet")),
        Plugin("pannuke", "PanNuke: a fold of .npy.", lazy(f"{home}.pannuke:PanNuke")),
        Plugin("qupath", "QuPath GeoJSON: cells with nuclei.", lazy(f"{home}.qupath:QuPath")),
        Plugin("stardist", "StarDist: images/x.tif, masks/x.tif.", lazy(f"{home}.stardist:StarDist")),
    ]


@hookimpl
def msdm_kit_metrics() -> list[Plugin]:
    return [*_mask_metrics(), *_feature_metrics()]


@hookimpl
def msdm_kit_embedders() -> list[Plugin]:
    home = "msdm_kit.plugins.embedders"
    return [
        Plugin(
            "descriptors",
            "Stain, texture and shape, without weights.",
            lazy(f"{home}.descriptors:Descriptors"),
        ),
        Plugin(
            "timm", "A network of timm: model=NAME or local-dir:FOLDER.", lazy(f"{home}.timm_network:Timm")
        ),
        Plugin("h-optimus-0", "The MSDM paper's pathology network.", lazy(f"{home}.timm_network:HOptimus0")),
        Plugin("random", "A random network, for tests: no metric.", lazy(f"{home}.random_network:Random")),
    ]


def _feature_metrics() -> list[Plugin]:
    home = "msdm_kit.plugins.metrics"
    return [
        Plugin("wasserstein", "W1 of features, exact.", lazy(f"{home}.transport:WASSERSTEIN")),
        Plugin("sliced_wasserstein", "W1 over random directions.", lazy(f"{home}.transport:SLICED")),
        Plugin("marginal_wasserstein", "W1 of each feature alone.", lazy(f"{home}.transport:MARGINAL")),
        Plugin("kid", "Kernel distance (Binkowski et al. 2018).", lazy(f"{home}.kernel_distance:KID")),
        Plugin("fid", "Fréchet distance (Heusel et al. 2017).", lazy(f"{home}.frechet:FID")),
        Plugin("precision", "Kynkäänniemi et al. 2019.", lazy(f"{home}.neighbours:PRECISION")),
        Plugin("recall", "Kynkäänniemi et al. 2019.", lazy(f"{home}.neighbours:RECALL")),
        Plugin("density", "Naeem et al. 2020.", lazy(f"{home}.neighbours:DENSITY")),
        Plugin("coverage", "Naeem et al. 2020.", lazy(f"{home}.neighbours:COVERAGE")),
    ]


def _mask_metrics() -> list[Plugin]:
    family = {
        "f1": "F1 of detected centres",
        "precision": "Precision of detected centres",
        "recall": "Recall of detected centres",
        "assd": "Average symmetric surface distance of outlines, px",
        "dice": "Dice coefficient of matched instances",
        "aji": "Aggregated Jaccard index (Kumar et al. 2017)",
        "aji_plus": "The same over a one-to-one matching (Graham et al. 2019)",
        "pq": "Panoptic quality (Kirillov et al. 2019)",
        "sq": "Segmentation quality, a factor of it",
        "dq": "Detection quality, a factor of it",
        "ap50": "TP / (TP + FP + FN) at IoU 0.5",
        "ap75": "TP / (TP + FP + FN) at IoU 0.75",
    }
    rows = [
        (f"{kind}_{name}", f"{text}: {kind}.")
        for kind in ("cell", "nucleus")
        for name, text in family.items()
    ]
    rows.append(("cytoplasm_dice", "Dice coefficient of matched cells without their nuclei."))
    return [Plugin(name, text, partial(_mask_metric, name)) for name, text in rows]


def _mask_metric(name: str) -> "MaskMetric":
    from .metrics.masks import METRICS

    return METRICS[name]


@hookimpl
def msdm_kit_segmenters() -> list[Plugin]:
    home = "msdm_kit.plugins.segmenters"
    return [
        Plugin("cpnet", "Cellpose 3.1's network, from scratch.", lazy(f"{home}.cpnet:CPNet")),
        Plugin("cpsam", "Cellpose-SAM, with weights that you have.", lazy(f"{home}.cpsam:CPSAM")),
        Plugin(
            "scratch-small",
            "A compact U-Net, from scratch in Cellpose 4's loop.",
            lazy(f"{home}.scratch_small:ScratchSmall"),
        ),
    ]


@hookimpl
def msdm_kit_loggers() -> list[Plugin]:
    home = "msdm_kit.plugins.loggers.tensorboard"
    return [Plugin("tensorboard", "Event files for TensorBoard.", lazy(f"{home}:TensorBoard"))]


@hookimpl
def msdm_kit_commands() -> list[Plugin]:
    """Those of `msdm_kit.cli.main`, so that no other package takes their names."""
    home = "msdm_kit.cli"
    return [
        Plugin("train", "Train a recipe on a data set.", lazy(f"{home}.train:train")),
        Plugin("sample", "Paint image and mask pairs.", lazy(f"{home}.sample:sample")),
        Plugin("paint-field", "Paint one field of any size.", lazy(f"{home}.paint_field:paint_field")),
        Plugin("experiment", "Does it help? The paper's protocol.", lazy(f"{home}.experiment:experiment")),
        Plugin("recipes", "List the recipes, print one, or compare two.", lazy(f"{home}.recipes:recipes")),
        Plugin("plugins", "List the plugins of every kind.", lazy(f"{home}.plugins:plugins")),
        Plugin("convert", "Weights of other programs.", lazy(f"{home}.convert:convert")),
        Plugin("data", "Prepare data sets.", lazy(f"{home}.data:data")),
        Plugin("segment", "Train a segmenter, and segment.", lazy(f"{home}.segment:segment")),
        Plugin("evaluate", "Measure what was painted.", lazy(f"{home}.evaluate:evaluate")),
    ]
