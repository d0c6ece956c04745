package harness;

import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.codehaus.groovy.ast.ASTNode;
import org.codehaus.groovy.ast.ClassCodeVisitorSupport;
import org.codehaus.groovy.ast.ClassNode;
import org.codehaus.groovy.ast.MethodNode;
import org.codehaus.groovy.ast.Parameter;
import org.codehaus.groovy.ast.expr.BinaryExpression;
import org.codehaus.groovy.ast.expr.ClassExpression;
import org.codehaus.groovy.ast.expr.ClosureExpression;
import org.codehaus.groovy.ast.expr.ConstructorCallExpression;
import org.codehaus.groovy.ast.expr.Expression;
import org.codehaus.groovy.ast.expr.GStringExpression;
import org.codehaus.groovy.ast.expr.ListExpression;
import org.codehaus.groovy.ast.expr.MapEntryExpression;
import org.codehaus.groovy.ast.expr.MethodCallExpression;
import org.codehaus.groovy.ast.expr.PropertyExpression;
import org.codehaus.groovy.ast.expr.StaticMethodCallExpression;
import org.codehaus.groovy.ast.expr.TupleExpression;
import org.codehaus.groovy.ast.expr.VariableExpression;
import org.codehaus.groovy.ast.stmt.ForStatement;
import org.codehaus.groovy.control.SourceUnit;

/** Walks one method of a step's source and reports violations of {@link StepRules}. */
final class StepRulesVisitor extends ClassCodeVisitorSupport {
    private final StepRules rules;
    private final String file;
    private final ClassNode type;
    private final boolean nonCps;
    /** Parameters that can be called like a method. */
    private final Set<String> closures = new HashSet<>();

    StepRulesVisitor(StepRules rules, String file, ClassNode type, boolean nonCps) {
        this.rules = rules;
        this.file = file;
        this.type = type;
        this.nonCps = nonCps;
    }

    @Override
    protected SourceUnit getSourceUnit() {
        return null;
    }

    private void report(ASTNode node, String why) {
        rules.report(file, node.getLineNumber(), why);
    }

    // The sandbox.

    @Override
    public void visitConstructorCallExpression(ConstructorCallExpression call) {
        String name = call.getType().getName();
        boolean own = call.isSpecialCall() || type.getModule().getClasses().stream().anyMatch(c -> c.getName().equals(name));
        if (!own && !StepRules.CONSTRUCTORS.contains(name)) {
            report(call, "the sandbox refuses new " + name);
        }
        if (!nonCps && name.equals("groovy.json.JsonSlurper")) {
            report(call, "JsonSlurper's maps cannot be saved: use it in a @NonCPS method that returns plain maps");
        }
        super.visitConstructorCallExpression(call);
    }

    @Override
    public void visitStaticMethodCallExpression(StaticMethodCallExpression call) {
        staticCall(call, call.getOwnerType().getName() + "." + call.getMethod());
        super.visitStaticMethodCallExpression(call);
    }

    private void staticCall(ASTNode node, String name) {
        if (!StepRules.STATIC_METHODS.contains(name)) {
            report(node, "the sandbox refuses " + name);
        }
    }

    @Override
    public void visitPropertyExpression(PropertyExpression property) {
        if (property.getObjectExpression() instanceof ClassExpression owner) {
            report(property, "the sandbox refuses " + owner.getType().getName() + "." + property.getPropertyAsString());
        }
        if (Set.of("class", "metaClass", "properties").contains(String.valueOf(property.getPropertyAsString()))) {
            report(property, "the sandbox refuses the property `" + property.getPropertyAsString() + "`");
        }
        super.visitPropertyExpression(property);
    }

    @Override
    public void visitMethodCallExpression(MethodCallExpression call) {
        String name = call.getMethodAsString();
        if (name == null) {
            report(call, "a method whose name is worked out cannot be checked");
        } else if (call.isSpreadSafe()) {
            report(call, "`*.` is broken in CPS code: use collect");
        } else if (call.isImplicitThis()) {
            implicitCall(call, name);
        } else if (call.getObjectExpression() instanceof ClassExpression owner) {
            staticCall(call, owner.getType().getName() + "." + name);
        } else if (call.getObjectExpression() instanceof VariableExpression variable && rules.isScript(variable.getName())) {
            otherStep(call, variable.getName(), name);
        } else {
            if (hasClosure(call) && !nonCps && StepRules.WRONG_IN_CPS.contains(name)) {
                report(call, "`" + name + "` with a closure gives wrong values in CPS code: put it into a @NonCPS method");
            } else if (name.equals("sh")) {
                rules.callsSh(file);
            } else if (!StepRules.METHODS.contains(name)) {
                report(call, "`" + name + "` is not known to be allowed in the sandbox");
            }
        }
        super.visitMethodCallExpression(call);
    }

    private void implicitCall(MethodCallExpression call, String name) {
        List<MethodNode> own = type.getMethods(name);
        boolean step = own.isEmpty() && StepRules.STEPS.contains(name);
        if (step && name.equals("sh")) {
            rules.callsSh(file);
        }
        if (!own.isEmpty()) {
            fromNonCps(call, name, own);
        } else if (rules.isScript(name)) {
            fromNonCps(call, name, rules.methodsOf(name, "call"));
        } else if (step) {
            if (nonCps) {
                report(call, "the step `" + name + "` in @NonCPS code: the rest of the method would not run");
            }
        } else if (!isVariable(call, name)) {
            report(call, "there is no step or method `" + name + "`");
        }
    }

    /** {@code body()} where {@code body} is a closure in a variable. */
    private boolean isVariable(MethodCallExpression call, String name) {
        return call.getObjectExpression() instanceof VariableExpression && closures.contains(name);
    }

    @Override
    public void visitMethod(MethodNode method) {
        for (Parameter parameter : method.getParameters()) {
            if (parameter.getType().getName().equals("groovy.lang.Closure")) {
                closures.add(parameter.getName());
            }
        }
        super.visitMethod(method);
    }

    private void otherStep(MethodCallExpression call, String script, String name) {
        List<MethodNode> methods = rules.methodsOf(script, name);
        if (methods.isEmpty()) {
            report(call, "there is no method `" + name + "` in " + script + ".groovy");
        }
        fromNonCps(call, script + "." + name, methods);
    }

    private void fromNonCps(ASTNode node, String name, List<MethodNode> called) {
        if (nonCps && called.stream().anyMatch(method -> !StepRules.isNonCps(method))) {
            report(node, "@NonCPS code calls `" + name + "`, which is CPS code: the rest of the method would not run");
        }
    }

    private static boolean hasClosure(MethodCallExpression call) {
        return call.getArguments() instanceof TupleExpression arguments
            && arguments.getExpressions().stream().anyMatch(argument -> argument instanceof ClosureExpression);
    }

    // Code that the CPS interpreter gets wrong.

    @Override
    public void visitBinaryExpression(BinaryExpression expression) {
        String operator = expression.getOperation().getText();
        if (operator.equals("[")) {
            if (expression.getLeftExpression().getText().equals("env")) {
                report(expression, "the sandbox refuses env[…]: write env.\"$name\"");
            }
            if (expression.getRightExpression() instanceof GStringExpression) {
                report(expression, "a GString is not found where a String is the key: call toString()");
            }
        }
        if (!nonCps && operator.equals("=~")) {
            report(expression, "a Matcher cannot be saved: use it in a @NonCPS method");
        }
        if (operator.equals("<<") || operator.equals(">>")) {
            report(expression, "`" + operator + "` is refused by the sandbox or broken in CPS code: call the method");
        }
        super.visitBinaryExpression(expression);
    }

    @Override
    public void visitMapEntryExpression(MapEntryExpression entry) {
        if (entry.getKeyExpression() instanceof GStringExpression) {
            report(entry, "a GString as a key is not found by its String: call toString()");
        }
        super.visitMapEntryExpression(entry);
    }

    @Override
    public void visitGStringExpression(GStringExpression text) {
        if (text.getValues().stream().anyMatch(value -> value instanceof ClosureExpression)) {
            report(text, "\"${-> }\" is broken in CPS code");
        }
        super.visitGStringExpression(text);
    }

    @Override
    public void visitClosureExpression(ClosureExpression closure) {
        Parameter[] parameters = closure.getParameters();
        for (Parameter parameter : parameters == null ? Parameter.EMPTY_ARRAY : parameters) {
            if (parameter.hasInitialExpression()) {
                report(closure, "default arguments of closures are broken in CPS code");
            }
        }
        super.visitClosureExpression(closure);
    }

    @Override
    public void visitForLoop(ForStatement loop) {
        boolean forIn = loop.getVariable() != ForStatement.FOR_LOOP_DUMMY;
        if (forIn && !nonCps && !savable(loop.getCollectionExpression())) {
            report(loop, "a loop over `" + loop.getCollectionExpression().getText()
                + "` may not be savable: use a List, entrySet(), keySet(), or each");
        }
        super.visitForLoop(loop);
    }

    private static boolean savable(Expression collection) {
        if (collection instanceof MethodCallExpression call) {
            return Set.of("entrySet", "keySet", "tokenize", "toList").contains(String.valueOf(call.getMethodAsString()));
        }
        return collection instanceof ListExpression || collection.getType().getName().equals("java.util.List");
    }
}
