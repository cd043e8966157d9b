from snakemake.utils import min_version

min_version("9.0")


configfile: Path(workflow.basedir, "configs", "workflow.yaml")


include: "workflow/rules/common.smk"
include: "workflow/rules/packs_common.smk"
include: "workflow/rules/starts.smk"
include: "workflow/rules/unfinished.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/experiments.smk"
include: "workflow/rules/packs.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/paper_common.smk"
include: "workflow/rules/paper_packs.smk"
include: "workflow/rules/paper.smk"
include: "workflow/rules/paper_report.smk"
include: "workflow/rules/systems_common.smk"
include: "workflow/rules/systems_diagnosis.smk"
include: "workflow/rules/systems.smk"


rule all:
    default_target: True
    input:
        "results/report.html",
        [inputs_of(experiment) for experiment in EXPERIMENTS],
