/*
 * Interprets a call of one of Wharf's steps: checks its arguments against the step's table and turns them
 * into words of the command line. Only text: nothing here calls a step.
 */

/** The error of an invalid argument. The message is for the Jenkinsfile's author. */
class WharfUsage extends Exception {
    WharfUsage(String message) {
        super(message)
    }
}

/**
 * The plan of a call: `problem` if it is invalid, else
 * `globals`, `words`, `operand`: the client's words, before and after its command;
 * `secretFiles`: `--secret` flags whose file is known only once the credential is bound;
 * `registry`: that of a block's login; `bindings`: the credentials to bind; `warnings`: likely mistakes; `hasResult`: whether the client writes a
 * metadata file; `metadataFile`, `label`.
 */
@NonCPS
Map planOf(Map request) {
    Map plan = [problem: null, command: request.command, globals: [], words: [], operand: [],
                secretFiles: [], registry: null, bindings: [], warnings: [], hasResult: false, metadataFile: null, label: null]
    try {
        plan.hasResult = request.arguments.any { argument -> argument.name == 'metadataFile' }
        fill(plan, request.arguments, request.given)
        plan.label = labelOf(request.step, request.given)
    } catch (WharfUsage usage) {
        String all = request.arguments.collect { argument -> argument.name + ' (' + argument.takes + ')' }.join(', ')
        String end = usage.message.endsWith('?') ? ' ' : '. '
        plan.problem = request.step + ': ' + usage.message + end + 'Its arguments are: ' + all
    }
    return plan
}

/** The login of a block whose plan this is: its binding, and `all`, the value of WHARF_LOGIN with those of `around`. */
@NonCPS
Map loginOf(Map plan, String around) {
    List logins = around.tokenize(' ')
    // Blocks inside each other have different variables.
    Map binding = [kind: 'login', id: plan.bindings[0].id, user: 'WHARF_LOGIN_USER_' + logins.size(),
                   password: 'WHARF_LOGIN_PASSWORD_' + logins.size()]
    logins.add(plan.registry + '=' + binding.user + ':' + binding.password)
    return [binding: binding, all: logins.join(' ')]
}

/** The client's whole command line; see `shown` in wharfCli for words that are not texts. */
@NonCPS
List wordsOf(Map plan, Map secretFiles) {
    List words = ['wharf']
    words.addAll(plan.globals)
    words.addAll(plan.command.tokenize(' '))
    words.addAll(plan.words)
    for (Map secret in plan.secretFiles) {
        String source = 'src=' + secretFiles.get(secret.variable)
        if (field(source) == source) {
            words.add([before: '--secret=' + field('id=' + secret.id) + ',src=', variable: secret.variable, after: ''])
        } else {
            words.add('--secret=' + field('id=' + secret.id) + ',' + field(source))
        }
    }
    if (plan.hasResult) {
        words.add(plan.metadataFile == null
            ? [before: '--metadata-file=', variable: 'WHARF_STEP_SCRATCH', after: '/metadata.json']
            : '--metadata-file=' + plan.metadataFile)
    }
    words.add('--')
    words.addAll(plan.operand)
    return words
}

@NonCPS
void fill(Map plan, List arguments, Map given) {
    Map values = [:]
    for (entry in given.entrySet()) {
        values.put(entry.key.toString(), entry.value)
    }
    List names = arguments.collect { argument -> argument.name }
    for (String name in values.keySet()) {
        if (!names.contains(name)) {
            throw new WharfUsage("there is no argument `" + name + "`" + meant(name, names))
        }
    }
    for (Map argument in arguments) {
        Object value = values.get(argument.name)
        if (value != null && !(argument.required && listOf(value).isEmpty())) {
            take(plan, argument, value)
        } else if (argument.otherwise != null) {
            take(plan, argument, argument.otherwise)
        } else if (argument.required) {
            throw new WharfUsage("`" + argument.name + "` is missing")
        }
        // Nobody can find an image without a name: a caller who passes a tag wants a named image.
        if (argument.name == 'tag' && values.containsKey('tag') && isNull(values.get('tag'))) {
            throw new WharfUsage("`tag` is null: a variable in it is not set. Omit `tag` to build an image without a name")
        }
    }
    if (values.get('credentials') != null) {
        logIn(plan, values.get('credentials'))
    }
    String named = names.contains('tag') ? 'tag' : 'image'
    for (element in listOf(values.get(named))) {
        if (element.toString().endsWith(':null')) {
            plan.warnings.add("`" + named + "` is `" + element + "`: a variable in it may not be set")
        }
    }
}

/** Whether a value is null, or a list with nothing but nulls. */
@NonCPS
boolean isNull(Object value) {
    if (value instanceof Collection || value instanceof Object[]) {
        boolean empty = true
        for (element in value) {
            if (element != null) {
                return false
            }
            empty = false
        }
        return !empty
    }
    return value == null
}

/** Adds one argument to the plan. */
@NonCPS
void take(Map plan, Map argument, Object value) {
    String name = argument.name
    List into = argument.global ? plan.globals : plan.words
    switch (argument.takes) {
        case 'boolean':
            if (!(value instanceof Boolean)) {
                throw new WharfUsage("`" + name + "` must be true or false, not " + kindOf(value))
            }
            if (value) {
                into.add(argument.flag)
            }
            break
        case 'text':
            String text = textOf(name, value)
            if (name == 'metadataFile') {
                plan.metadataFile = text
            } else if (argument.flag != null) {
                into.add(argument.flag + '=' + text)
            } else {
                plan.operand.add(text)
            }
            if (text == '-' && ['context', 'file'].contains(name)) {
                throw new WharfUsage("`" + name + "` is `-`, but a step has no standard input to read")
            }
            break
        case 'list':
            for (element in listOf(value)) {
                if (argument.flag == null) {
                    plan.operand.add(textOf(name, element))
                } else {
                    into.add(argument.flag + '=' + textOf(name, element))
                }
            }
            break
        case 'map':
            for (entry in mapOf(name, value).entrySet()) {
                takeEntry(into, argument, entry.key.toString(), entry.value)
            }
            break
        case 'token':
            // A file of it would be one more thing to remove.
            plan.bindings.add([kind: 'text', id: textOf(name, value), variable: 'WHARF_TOKEN'])
            break
        case 'login':
            plan.bindings.add([kind: 'login', id: textOf(name, value)])
            break
        case 'registry':
            // A space would begin another login, and what stands before an `@` is a password.
            String address = textOf(name, value)
            if (!address.matches('(https?://)?([A-Za-z0-9.-]+|\\[[0-9A-Fa-f:]+\\])(:[0-9]+)?(/[^\\s@]*)?')) {
                throw new WharfUsage("`" + name + "` must be a registry's address, such as "
                    + "'https://registry.example.com' or 'registry.example.com:5000'")
            }
            plan.registry = address
            break
        case 'secrets':
            for (entry in mapOf(name, value).entrySet()) {
                takeSecret(plan, entry.key.toString(), entry.value)
            }
            break
    }
}

/** One `NAME=VALUE`; for a list, one for each element; for null, the bare name, whose value is in the environment. */
@NonCPS
void takeEntry(List into, Map argument, String key, Object value) {
    String where = argument.name + '.' + key
    if (key.isEmpty() || key.contains(argument.between)) {
        throw new WharfUsage("`" + argument.name + "`: the name `" + key + "` must not be empty or hold `"
            + argument.between + "`")
    }
    textOf(argument.name, key)
    if (value == null && argument.fromEnvironment) {
        into.add(argument.flag + '=' + key)
        return
    }
    for (element in listOf(value)) {
        String text = element instanceof Boolean ? element.toString() : textOf(where, element)
        into.add(argument.flag + '=' + key + argument.between + text)
    }
}

/** A secret for the build: a credential's id, or one of `text`, `file` (ids), `env`, `src` as the key of a map. */
@NonCPS
void takeSecret(Map plan, String id, Object value) {
    if (value == null) {
        return
    }
    String where = 'secrets.' + id
    Map source = value instanceof Map ? value : [text: value]
    List kinds = source.keySet().collect { key -> key.toString() }
    if (kinds.size() != 1 || !['text', 'file', 'env', 'src'].contains(kinds.get(0))) {
        throw new WharfUsage("`" + where + "` must be a credential's id, or one of [text: ID], [file: ID], "
            + "[env: NAME], [src: PATH]")
    }
    String kind = kinds.get(0)
    String what = textOf(where, source.values().toList().get(0))
    String variable = 'WHARF_SECRET_' + plan.bindings.size()
    if (kind == 'text') {
        plan.bindings.add([kind: 'text', id: what, variable: variable])
        plan.words.add('--secret=' + field('id=' + id) + ',env=' + variable)
    } else if (kind == 'file') {
        plan.bindings.add([kind: 'file', id: what, variable: variable])
        plan.secretFiles.add([id: id, variable: variable])
    } else {
        plan.words.add('--secret=' + field('id=' + id) + ',' + field(kind + '=' + what))
    }
}

/** Registry credentials: an id for the registry of the names, or a map from registry to id. */
@NonCPS
void logIn(Map plan, Object credentials) {
    if (credentials instanceof Map) {
        for (entry in credentials.entrySet()) {
            if (entry.value != null) {
                String registry = textOf('credentials', entry.key.toString())
                addLogin(plan, registry + '=', textOf('credentials.' + registry, entry.value))
            }
        }
    } else if (credentials instanceof CharSequence) {
        addLogin(plan, '', textOf('credentials', credentials))
    } else {
        throw new WharfUsage("`credentials` must be a credential's id, or a map from registry to id, not "
            + kindOf(credentials))
    }
}

/** The client takes the login from variables, and adds it to those of docker's configuration. */
@NonCPS
void addLogin(Map plan, String registry, String id) {
    int number = plan.bindings.size()
    String user = 'WHARF_REGISTRY_USER_' + number
    String password = 'WHARF_REGISTRY_PASSWORD_' + number
    plan.bindings.add([kind: 'login', id: id, user: user, password: password])
    plan.words.add('--login=' + registry + user + ':' + password)
}

/** Suggests a name for an unknown one: `tags`, `build-arg`, `dockerfile`, `credentialsId`. */
@NonCPS
String meant(String name, List names) {
    String plain = name.toLowerCase().replace('-', '').replace('_', '')
    List alike = []
    for (String one in names) {
        String known = one.toLowerCase()
        if (plain.length() > 2 && (known.contains(plain) || plain.contains(known))) {
            alike.add('`' + one + '`')
        }
    }
    return alike.isEmpty() ? '' : '; is ' + alike.join(' or ') + ' meant?'
}

/** The elements of a list, a set, or an array such as that of `split`; anything else is one element. Omits nulls. */
@NonCPS
List listOf(Object value) {
    List all = []
    if (value instanceof Collection || value instanceof Object[]) {
        for (element in value) {
            if (element != null) {
                all.add(element)
            }
        }
    } else if (value != null) {
        all.add(value)
    }
    return all
}

@NonCPS
String textOf(String name, Object value) {
    if (!(value instanceof CharSequence) && !(value instanceof Number)) {
        throw new WharfUsage("`" + name + "` must be text, not " + kindOf(value))
    }
    String text = value.toString()
    if (text.contains('\u0000')) {
        throw new WharfUsage("`" + name + "` contains a NUL character, which a command line cannot contain")
    }
    return text
}

@NonCPS
Map mapOf(String name, Object value) {
    if (!(value instanceof Map)) {
        throw new WharfUsage("`" + name + "` must be a map, not " + kindOf(value))
    }
    return value
}

/** A field of a comma-separated flag, quoted as CSV if necessary. */
@NonCPS
String field(String text) {
    return text.contains(',') || text.contains('"') ? '"' + text.replace('"', '""') + '"' : text
}

@NonCPS
String kindOf(Object value) {
    if (value == null) {
        return 'null'
    }
    if (value instanceof CharSequence) {
        return 'text'
    }
    if (value instanceof Number) {
        return 'a number'
    }
    if (value instanceof Boolean) {
        return 'a boolean'
    }
    if (value instanceof Collection || value instanceof Object[]) {
        return 'a list'
    }
    return value instanceof Map ? 'a map' : 'another kind of object'
}

/** The step's label in Jenkins' views, which cut it at 100 characters. */
@NonCPS
String labelOf(String step, Map given) {
    List images = listOf(given.get('tag') == null ? given.get('image') : given.get('tag'))
    return images.isEmpty() ? step : step + ' ' + images.get(0)
}
