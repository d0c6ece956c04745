import groovy.json.JsonSlurper

/*
 * Runs the wharf client once for one of Wharf's steps. Not for Jenkinsfiles: use the steps.
 *
 * Nothing else calls `sh`. The client's result is read from its metadata file, never from the console.
 * Secrets reach it in the environment or in files, never in an argument or in the script's trace.
 */

/**
 * `step` is the step's name, `command` the client's command, `arguments` the step's table, `given` the
 * Jenkinsfile's arguments, `pushes` whether the image is in a registry afterwards, `prints` whether the result is
 * the JSON that the client prints.
 */
Object call(Map request) {
    Map plan = wharfArguments.planOf(request)
    if (plan.problem != null) {
        error(plan.problem)
    }
    for (int i = 0; i < plan.warnings.size(); i++) {
        echo('WARNING: ' + request.step + ': ' + plan.warnings[i])
    }
    // Beside the workspace, even inside of `dir`: a context can contain every file of the workspace.
    String scratch = (env.WORKSPACE_TMP ?: pwd(tmp: true)) + '/wharf-' + UUID.randomUUID().toString()
    String metadata = plan.metadataFile == null ? scratch + '/metadata.json' : plan.metadataFile
    String directory = pwd()
    try {
        // Made by the agent, not by the script: in a `container`, the script's user may be another, and the agent's
        // user could not remove a directory that root has made there.
        writeFile(file: scratch + '/.made-by-the-agent', text: '')
        inWorkspace(directory) {
            withBindings(plan.bindings) {
                List words = wharfArguments.wordsOf(plan, secretFilesOf(plan.bindings))
                int status = runIn(directory, scratch, plan, words, request.prints == true)
                if (status != 0) {
                    String said = fileExists(scratch + '/error') ? readFile(file: scratch + '/error').trim() : ''
                    error(failureOf(plan.label, status, said))
                }
            }
        }
        if (request.prints) {
            return printedOf(readFile(file: scratch + '/printed'))
        }
        return plan.hasResult ? resultOf(readFile(file: metadata), request.pushes) : null
    } finally {
        dir(scratch) {
            deleteDir()
        }
    }
}

/**
 * Jenkins puts secret files and a script's control files beside the current directory: inside of
 * `dir`, this place can be in the context; beside the workspace it cannot.
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

/** Passes paths in variables: if a container has the workspace at another path, Jenkins rewrites only variables. */
int runIn(String directory, String scratch, Map plan, List words, boolean prints) {
    return withEnv(["WHARF_STEP_DIRECTORY=${directory}", "WHARF_STEP_SCRATCH=${scratch}",
                    "WHARF_ERROR_FILE=${scratch}/error"]) {
        sh(script: scriptOf(words, prints), label: plan.label, returnStatus: true)
    }
}

/** Runs the body with the credentials in the call bound. */
Object withBindings(List bindings, Closure body) {
    if (bindings.isEmpty()) {
        return body()
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
    return withCredentials(bound) {
        body()
    }
}

/** The paths of the secret files, by variable: known only while they are bound. */
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
 * The script. It uses `exec`, so that wharf is the script's own process: its exit status is the script's, and
 * the script does not end before wharf, even when Jenkins stops it.
 */
@NonCPS
String scriptOf(List words, boolean prints) {
    List lines = ['{ set +x; } 2>/dev/null']
    // Like `dir` itself, this makes the directory. It follows a link that the repository may have put there: the client
    // learns that from PWD, which only a shell's own `cd` sets, and refuses the directory.
    lines.add('mkdir -p -- "$WHARF_STEP_DIRECTORY"')
    lines.add('cd -- "$WHARF_STEP_DIRECTORY"')
    // Where an agent's mount of the node's directory, and a pod's volume, have the client.
    lines.add('PATH="$PATH:/run/wharf/bin:/run/wharf"')
    lines.add('set -x')
    String printed = prints ? ' > "$WHARF_STEP_SCRATCH/printed"' : ''
    lines.add('exec ' + words.collect { word -> shown(word) }.join(' ') + printed)
    return lines.join('\n') + '\n'
}

/** A word of the command line: a text, or `[before, variable, after]` for a path in a variable. */
@NonCPS
String shown(Object word) {
    return word instanceof Map ? quoted(word.before) + '"$' + word.variable + '"' + quoted(word.after) : quoted(word)
}

/** The word quoted for the shell. Plain words stay unquoted, so that the trace is readable. */
@NonCPS
String quoted(String word) {
    if (word.matches('[A-Za-z0-9_/:=.,@%+-]+')) {
        return word
    }
    return "'" + word.replace("'", "'\\''") + "'"
}

/**
 * The step's error, which mails and Blue Ocean show without the log: the client's own message. Without one, the client
 * did not run.
 */
@NonCPS
String failureOf(String label, int status, String said) {
    Map meanings = [
        (126): 'the wharf client on this agent cannot be run',
        (127): 'this agent has no wharf client, on its PATH or below /run/wharf; see docs/jenkins.md',
    ]
    String meaning = said.isEmpty() ? meanings.get(status) : said
    return label + ': ' + (meaning == null ? 'see the log above' : meaning) + ' (exit status ' + status + ')'
}

/** The step's result: what the client says of an image, or a list of that, for several. */
@NonCPS
Object resultOf(String json, boolean pushes) {
    Object metadata = new JsonSlurper().parseText(json)
    return metadata instanceof List ? metadata.collect { one -> imageOf(one, pushes) } : imageOf(metadata, pushes)
}

/** An image, as a plain map of texts, which can be kept across steps. */
@NonCPS
Map imageOf(Map metadata, boolean pushes) {
    String names = metadata.get('image.name')
    List tags = []
    if (names != null) {
        tags.addAll(names.tokenize(','))
    }
    String ref = metadata.get('wharf.image.ref')
    // Only a name at a registry has a digest.
    boolean pushed = pushes || (ref != null && ref.contains('@'))
    return [ref: ref, id: metadata.get('wharf.image.id'),
            digest: pushed ? metadata.get('containerimage.digest') : null, tags: tags]
}

/** The JSON that the client has printed, as plain maps and lists, which can be kept across steps. */
@NonCPS
Object printedOf(String json) {
    return plain(new JsonSlurper().parseText(json))
}

@NonCPS
Object plain(Object value) {
    if (value instanceof Map) {
        Map map = [:]
        for (entry in value.entrySet()) {
            map.put(entry.key.toString(), plain(entry.value))
        }
        return map
    }
    if (value instanceof List) {
        List list = []
        for (element in value) {
            list.add(plain(element))
        }
        return list
    }
    return value
}
