# What `ppfl diagnose` says of the runs of a study that asks for it.

rule systems_diagnosis:
    """ρ of the results of one configuration, where its study asks for it."""
    input:
        "results/systems/{part}.packed",
    output:
        touch("results/systems/{part}.diagnosed"),
    message:
        "systems: ρ of {wildcards.part}"
    log:
        "logs/systems/{part}.diagnosed.log",
    params:
        config=lambda wildcards: str(SYSTEMS_FOLDER / f"{wildcards.part}.yaml"),
    conda:
        "../envs/ppfl.yaml"
    script:
        "../scripts/systems_diagnosis.py"
