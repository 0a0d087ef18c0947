process DEFOCUS {
    tag "$meta.id"
    label 'process_medium'

    input:
    tuple val(meta), path(images)

    output:
    tuple val(meta), path("corrected/*"), emit: images
    tuple val(meta), path("*.json")     , emit: report
    path "versions.yml"                 , emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    def prefix = task.ext.prefix ?: "${meta.id}"
    """
    defocus-run ${images} -o corrected --threads ${task.cpus} --json ${args} > ${prefix}.json

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        defocus: \$(defocus-run --version | sed 's/defocus-run //')
    END_VERSIONS
    """

    stub:
    def prefix = task.ext.prefix ?: "${meta.id}"
    """
    mkdir corrected
    touch ${prefix}.json
    for image in ${images}; do touch corrected/\$(basename "\$image"); done

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        defocus: \$(defocus-run --version | sed 's/defocus-run //')
    END_VERSIONS
    """
}
