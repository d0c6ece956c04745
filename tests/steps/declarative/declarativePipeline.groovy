// Runs the map that harness/Declarative.java makes from `pipeline { … }`. A program like any other: it is
// saved and restored with the Jenkinsfile that it runs.
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

def call(Map pipeline) {
    Map options = pipeline.options ?: [:]
    Closure whole = {
        onAgent(pipeline.agent, options.skipDefaultCheckout) {
            withVariables(pipeline.environment ?: [], 0) {
                Throwable failure = attempt { stages(pipeline.stages) }
                failure = post(pipeline.post ?: [:], failure)
                if (failure != null) {
                    throw failure
                }
            }
        }
    }
    if (options.timeout) {
        timeout(options.timeout, whole)
    } else {
        whole()
    }
}

def onAgent(String agent, skipCheckout, Closure body) {
    if (agent == 'none' || agent == null) {
        body()
        return
    }
    node {
        if (hasScm() && !skipCheckout) {
            stage('Declarative: Checkout SCM') {
                checkout(scm).each { name, value -> env."$name" = value }
            }
        }
        body()
    }
}

@NonCPS
boolean hasScm() {
    try {
        return scm != null
    } catch (MissingPropertyException e) {
        return false
    }
}

def withVariables(List pairs, int index, Closure body) {
    if (index == pairs.size()) {
        body()
        return
    }
    String name = pairs[index][0]
    def value = pairs[index][1].call()
    Closure rest = { withVariables(pairs, index + 1, body) }
    if (value instanceof Map) {
        withCredentials([declarativeBinding(variable: name, id: value.credentialsId)], rest)
    } else {
        withEnv(["${name}=${value}"], rest)
    }
}

def stages(List all) {
    Throwable failure = null
    for (int i = 0; i < all.size(); i++) {
        Map one = all[i]
        if (failure != null) {
            echo "Stage \"${one.name}\" skipped due to earlier failure(s)"
        } else {
            failure = attempt { oneStage(one) }
        }
    }
    if (failure != null) {
        throw failure
    }
}

def oneStage(Map one) {
    stage(one.name) {
        onAgent(one.agent, false) {
            withVariables(one.environment ?: [], 0) {
                if (one.when != null && !one.when.call()) {
                    echo "Stage \"${one.name}\" skipped due to when conditional"
                    return
                }
                Throwable failure = attempt { stageBody(one) }
                failure = post(one.post ?: [:], failure)
                if (failure != null) {
                    throw failure
                }
            }
        }
    }
}

def stageBody(Map one) {
    if (one.steps != null) {
        one.steps.call()
    } else if (one.stages != null) {
        stages(one.stages)
    } else {
        Map branches = [:]
        one.parallel.each { branch -> branches[branch.name] = { oneStage(branch) } }
        parallel(branches)
    }
}

// Returns the exception of the body, or null. Sets the build's result before any `post` reads it.
def attempt(Closure body) {
    try {
        body()
        return null
    } catch (FlowInterruptedException e) {
        currentBuild.result = e.result
        return e
    } catch (Exception e) {
        currentBuild.result = 'FAILURE'
        return e
    }
}

// Runs every condition that applies. A failure in one of them fails a build that had not failed.
def post(Map conditions, Throwable failure) {
    List holding = ['always', 'changed', 'aborted', 'failure', 'success', 'unstable', 'unsuccessful', 'cleanup']
    for (int i = 0; i < holding.size(); i++) {
        String condition = holding[i]
        if (conditions[condition] != null && holds(condition, failure)) {
            Throwable own = attempt { conditions[condition].call() }
            if (failure == null) {
                failure = own
            }
        }
    }
    return failure
}

boolean holds(String condition, Throwable failure) {
    String result = currentBuild.currentResult
    switch (condition) {
        case 'always':
        case 'cleanup':
        case 'changed':
            return true
        case 'success':
            return failure == null && result == 'SUCCESS'
        case 'unsuccessful':
            return failure != null || result != 'SUCCESS'
        default:
            return result == condition.toUpperCase()
    }
}
