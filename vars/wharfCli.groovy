import groovy.json.JsonSlurper

/*
 * Runs the wharf client once for one of Wharf's steps. Not for Jenkinsfiles: use the steps.
 *
 * This alone calls `sh`. What the client answers is read from its metadata file, never from the console.
 * Secrets reach it in the environment or in files, never in an argument or in the script's trace.
 */

/**
 * `step` is the step's name, `command` the client's, `arguments` the step's table, `given` what the
 * Jenkinsfile gave, `pushes` whether the image is in a registry afterwards.
 */
Map call(Map request) {
    Map plan = wharfArguments.planOf(request)
    if (plan.problem != null) {
        error(plan.problem)
    }
    for (int i = 0; i < plan.warnings.size(); i++) {
        echo('WARNING: ' + request.step + ': ' + plan.warnings[i])
    }
    // Beside the workspace, also inside of `dir`: what lies in the workspace can be in a context, for all to see.
    String scratch = (env.WORKSPACE_TMP ?: pwd(tmp: true)) + '/wharf-' + UUID.randomUUID().toString()
    String metadata = plan.metadataFile == null ? scratch + '/metadata.json' : plan.metadataFile
    String directory = pwd()
    try {
        // By the agent and not by the script, whose user is another where the agent and its `container` are: what
        // a root there made, this user could not clean up.
        writeFile(file: scratch + '/.made-by-the-agent', text: '')
        inWorkspace(directory) {
            withBindings(plan.bindings) {
                List words = wharfArguments.wordsOf(plan, secretFilesOf(plan.bindings))
                int status = runIn(directory, scratch, plan, words)
                if (status != 0) {
                    error(failureOf(plan.label, status))
                }
            }
        }
        return resultOf(readFile(file: metadata), request.pushes)
    } finally {
        dir(scratch) {
            deleteDir()
        }
    }
}

/**
 * Jenkins puts secret files and a script's control files beside the directory where it binds and runs: below
 * `dir`, that can be in the context. Beside the workspace it is not.
 */
void inWorkspace(String directory, Closure body) {
    if (env.WORKSPACE == null || directory == env.WORKSPACE) {
        body()
        return
    }
    dir(env.WORKSPACE) {
        body()
    }
}

/** The script finds paths in variables: where a container has the workspace elsewhere, Jenkins rewrites those alone. */
int runIn(String directory, String scratch, Map plan, List words) {
    return withEnv(["WHARF_STEP_DIRECTORY=${directory}", "WHARF_STEP_SCRATCH=${scratch}"]) {
        sh(script: scriptOf(plan, words), label: plan.label, returnStatus: true)
    }
}

/** Runs the body with the credentials that the call names. */
void withBindings(List bindings, Closure body) {
    if (bindings.isEmpty()) {
        body()
        return
    }
    List bound = []
    for (int i = 0; i < bindings.size(); i++) {
        Map one = bindings[i]
        if (one.kind == 'text') {
            bound.add(string(credentialsId: one.id, variable: one.variable))
        } else if (one.kind == 'file') {
            bound.add(file(credentialsId: one.id, variable: one.variable))
        } else {
            bound.add(usernamePassword(credentialsId: one.id,
                usernameVariable: one.user, passwordVariable: one.password))
        }
    }
    withCredentials(bound) {
        body()
    }
}

/** Where Jenkins has put the secret files, by variable: known only while they are bound. */
Map secretFilesOf(List bindings) {
    Map paths = [:]
    for (int i = 0; i < bindings.size(); i++) {
        Map one = bindings[i]
        if (one.kind == 'file') {
            paths.put(one.variable, env."${one.variable}")
        }
    }
    return paths
}

/**
 * The script. `exec`, so that wharf is the script's own process: its exit status is the script's, and
 * the script has not ended before wharf has, also when Jenkins stops it.
 */
@NonCPS
String scriptOf(Map plan, List words) {
    List lines = ['{ set +x; } 2>/dev/null']
    // As `dir` itself, this makes the directory.
    lines.add('mkdir -p -- "$WHARF_STEP_DIRECTORY"')
    lines.add('cd -- "$WHARF_STEP_DIRECTORY"')
    lines.add('set -x')
    lines.add('exec ' + words.collect { word -> shown(word) }.join(' '))
    return lines.join('\n') + '\n'
}

/** A word of the command line: a text, or `[before, variable, after]` for a path that a variable has. */
@NonCPS
String shown(Object word) {
    return word instanceof Map ? quoted(word.before) + '"$' + word.variable + '"' + quoted(word.after) : quoted(word)
}

/** The word as the shell reads it back. Plain words stay as they are, for the trace's reader. */
@NonCPS
String quoted(String word) {
    if (word.matches('[A-Za-z0-9_/:=.,@%+-]+')) {
        return word
    }
    return "'" + word.replace("'", "'\\''") + "'"
}

/** What the client's exit status means to the reader of the log, who has its own message above. */
@NonCPS
String failureOf(String label, int status) {
    Map meanings = [
        (1): 'it failed; wharf says why above',
        (2): 'an argument or a file that it names is wrong; wharf says which above',
        (3): 'not allowed; wharf says by whom above (the argument `credentials` logs in to a registry)',
        (4): 'wharfd cannot be reached; is its socket mounted into this agent?',
        (5): 'the engine or a registry is unavailable, or a limit is reached; try again later',
        (6): 'there is no such image; wharf says which above',
        (126): 'the wharf client on this agent cannot be run',
        (127): 'the wharf client is not on the PATH of this agent; see docs/jenkins.md',
    ]
    String meaning = meanings.get(status)
    return label + ': ' + (meaning == null ? 'wharf says why above' : meaning) + ' (exit status ' + status + ')'
}

/** The step's answer, a plain map of texts: it can be kept across steps. */
@NonCPS
Map resultOf(String json, boolean pushes) {
    Map metadata = new JsonSlurper().parseText(json)
    String names = metadata.get('image.name')
    List tags = []
    if (names != null) {
        tags.addAll(names.tokenize(','))
    }
    return [ref: metadata.get('wharf.image.ref'), id: metadata.get('containerimage.config.digest'),
            digest: pushes ? metadata.get('containerimage.digest') : null, tags: tags]
}
