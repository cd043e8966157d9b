# Experiments of many small runs: one job takes a pack of them.

rule pack:
    """A part of the runs of a grid; repeated, it goes on where it stopped."""
    input:
        lambda wildcards: starts_of_pack(wildcards.experiment, int(wildcards.part), int(wildcards.parts)),
    output:
        touch("results/{experiment}/packs/{part}-of-{parts}.done"),
    message:
        "{wildcards.experiment}: pack {wildcards.part} of {wildcards.parts}"
    log:
        "logs/{experiment}/pack-{part}-of-{parts}.log",
    params:
        config=lambda wildcards: EXPERIMENTS[wildcards.experiment][0],
        limit=f"--time-limit {60 * PACKS['minutes']}" if "minutes" in PACKS else "",
        # not used by the command: other runs are another job
        digests=lambda wildcards: digests_of_pack(wildcards.experiment, int(wildcards.part), int(wildcards.parts)),
        # a pack that was stopped on request is not to be started again by the retries below
        stopped="results/{experiment}/packs/{part}-of-{parts}.stopped",
    threads: PACKS.get("cores") or workflow.cores or 1
    retries: PACKS["restarts"]
    resources:
        # with what a job needs to start and to end
        runtime=PACKS["minutes"] + 5 if "minutes" in PACKS else None,
        attempt=lambda wildcards, attempt: attempt,
    conda:
        "../envs/ppfl.yaml"
    shell:
        "if (({resources.attempt} == 1)); then rm -f {params.stopped:q}; fi;"
        " if [[ -e {params.stopped:q} ]]; then exit 76; fi; code=0;"
        " python -m ppfl pack {params.config:q} --part {wildcards.part}/{wildcards.parts} {params.limit}"
        " --out results/{wildcards.experiment:q} --jobs {threads} >> {log:q} 2>&1 || code=$?;"
        " if ((code == 76)); then touch {params.stopped:q}; fi; exit $code"
