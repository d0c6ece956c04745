package harness;

import java.util.ArrayList;
import java.util.List;
import org.codehaus.groovy.ast.ClassNode;
import org.codehaus.groovy.ast.MethodNode;
import org.codehaus.groovy.ast.expr.ArgumentListExpression;
import org.codehaus.groovy.ast.expr.BinaryExpression;
import org.codehaus.groovy.ast.expr.ClosureExpression;
import org.codehaus.groovy.ast.expr.ConstantExpression;
import org.codehaus.groovy.ast.expr.Expression;
import org.codehaus.groovy.ast.expr.ListExpression;
import org.codehaus.groovy.ast.expr.MapEntryExpression;
import org.codehaus.groovy.ast.expr.MapExpression;
import org.codehaus.groovy.ast.expr.MethodCallExpression;
import org.codehaus.groovy.ast.expr.TupleExpression;
import org.codehaus.groovy.ast.expr.VariableExpression;
import org.codehaus.groovy.ast.stmt.BlockStatement;
import org.codehaus.groovy.ast.stmt.ExpressionStatement;
import org.codehaus.groovy.ast.stmt.ReturnStatement;
import org.codehaus.groovy.ast.stmt.Statement;
import org.codehaus.groovy.classgen.GeneratorContext;
import org.codehaus.groovy.classgen.VariableScopeVisitor;
import org.codehaus.groovy.control.CompilePhase;
import org.codehaus.groovy.control.SourceUnit;
import org.codehaus.groovy.control.customizers.CompilationCustomizer;
import org.codehaus.groovy.control.messages.SyntaxErrorMessage;
import org.codehaus.groovy.syntax.SyntaxException;

/**
 * A small Declarative: turns {@code pipeline { … }} into a map and passes it to {@code
 * declarativePipeline}, a step in {@code declarative/}. Checks the structure; as in Jenkins the
 * body of {@code steps} contains only steps, and other code needs {@code script { }}.
 */
final class Declarative extends CompilationCustomizer {
    private static final List<String> CONDITIONS = List.of(
        "always", "changed", "success", "failure", "aborted", "unstable", "unsuccessful", "cleanup");

    private SourceUnit source;

    Declarative() {
        super(CompilePhase.SEMANTIC_ANALYSIS);
    }

    @Override
    public void call(SourceUnit unit, GeneratorContext context, ClassNode type) {
        MethodNode run = type.getMethod("run", new org.codehaus.groovy.ast.Parameter[0]);
        if (run == null || !(run.getCode() instanceof BlockStatement code)) {
            return;
        }
        source = unit;
        boolean changed = false;
        List<Statement> statements = code.getStatements();
        for (int i = 0; i < statements.size(); i++) {
            MethodCallExpression call = asCall(statements.get(i));
            if (call != null && call.getMethodAsString().equals("pipeline") && bodyOf(call) != null) {
                statements.set(i, new ExpressionStatement(new MethodCallExpression(
                    new VariableExpression("this"), "declarativePipeline",
                    new ArgumentListExpression(List.of(section(bodyOf(call), "pipeline"))))));
                changed = true;
            }
        }
        if (changed) {
            new VariableScopeVisitor(unit).visitClass(type);
        }
    }

    /** {@code pipeline}, {@code stage}: a map of its parts. */
    private MapExpression section(ClosureExpression body, String where) {
        MapExpression map = new MapExpression();
        for (Statement statement : statements(body)) {
            MethodCallExpression call = asCall(statement);
            if (call == null) {
                refuse(statement, "Not a valid section definition in " + where);
                continue;
            }
            String name = call.getMethodAsString();
            ClosureExpression inner = bodyOf(call);
            switch (name) {
                case "agent" -> put(map, name, new ConstantExpression(
                    call.getArguments().getText().contains("none") ? "none" : "any"));
                case "environment" -> put(map, name, environment(inner));
                case "options" -> put(map, name, options(inner));
                case "stages", "parallel" -> put(map, name, stages(inner));
                case "steps" -> {
                    onlySteps(inner);
                    put(map, name, inner);
                }
                case "post" -> put(map, name, post(inner));
                case "when" -> put(map, name, when(inner));
                default -> refuse(statement, "Unknown section \"" + name + "\" in " + where);
            }
        }
        return map;
    }

    private ListExpression stages(ClosureExpression body) {
        ListExpression list = new ListExpression();
        for (Statement statement : statements(body)) {
            MethodCallExpression call = asCall(statement);
            if (call == null || !call.getMethodAsString().equals("stage") || bodyOf(call) == null) {
                refuse(statement, "Expected a stage");
                continue;
            }
            MapExpression stage = section(bodyOf(call), "stage");
            put(stage, "name", arguments(call).get(0));
            list.addExpression(stage);
        }
        return list;
    }

    /** A list of [name, closure]: each value is computed after the earlier ones are set. */
    private ListExpression environment(ClosureExpression body) {
        ListExpression pairs = new ListExpression();
        for (Statement statement : statements(body)) {
            if (expressionOf(statement) instanceof BinaryExpression assignment
                    && assignment.getOperation().getText().equals("=")) {
                pairs.addExpression(new ListExpression(List.of(
                    new ConstantExpression(assignment.getLeftExpression().getText()),
                    closure(assignment.getRightExpression(), body))));
            } else {
                refuse(statement, "Expected NAME = VALUE in environment");
            }
        }
        return pairs;
    }

    private MapExpression options(ClosureExpression body) {
        MapExpression map = new MapExpression();
        for (Statement statement : statements(body)) {
            MethodCallExpression call = asCall(statement);
            String name = call == null ? "" : call.getMethodAsString();
            switch (name) {
                case "skipDefaultCheckout" -> put(map, name, ConstantExpression.TRUE);
                case "timeout" -> put(map, name, arguments(call).get(0));
                case "disableConcurrentBuilds", "timestamps" -> { }
                default -> refuse(statement, "Invalid option type \"" + name + "\"");
            }
        }
        return map;
    }

    private MapExpression post(ClosureExpression body) {
        MapExpression map = new MapExpression();
        for (Statement statement : statements(body)) {
            MethodCallExpression call = asCall(statement);
            if (call == null || !CONDITIONS.contains(call.getMethodAsString())) {
                refuse(statement, "Invalid condition in post, valid are " + CONDITIONS);
                continue;
            }
            onlySteps(bodyOf(call));
            put(map, call.getMethodAsString(), bodyOf(call));
        }
        return map;
    }

    private Expression when(ClosureExpression body) {
        List<Statement> conditions = statements(body);
        MethodCallExpression call = conditions.size() == 1 ? asCall(conditions.get(0)) : null;
        if (call != null && call.getMethodAsString().equals("expression")) {
            return bodyOf(call);
        }
        if (call != null && call.getMethodAsString().equals("branch")) {
            return closure(new BinaryExpression(new VariableExpression("BRANCH_NAME"),
                org.codehaus.groovy.syntax.Token.newSymbol("==", -1, -1), arguments(call).get(0)), body);
        }
        refuse(body.getCode(), "when: this Declarative knows `expression` and `branch`");
        return new ConstantExpression(null);
    }

    private void onlySteps(ClosureExpression body) {
        for (Statement statement : statements(body)) {
            MethodCallExpression call = asCall(statement);
            if (call == null) {
                refuse(statement, "Expected a step");
            }
        }
    }

    private void refuse(org.codehaus.groovy.ast.ASTNode node, String message) {
        source.getErrorCollector().addErrorAndContinue(new SyntaxErrorMessage(
            new SyntaxException(message, node.getLineNumber(), node.getColumnNumber()), source));
    }

    private static void put(MapExpression map, String key, Expression value) {
        map.addMapEntryExpression(new MapEntryExpression(new ConstantExpression(key), value));
    }

    private static ClosureExpression closure(Expression value, ClosureExpression like) {
        BlockStatement code = new BlockStatement();
        code.addStatement(new ReturnStatement(value));
        ClosureExpression closure = new ClosureExpression(org.codehaus.groovy.ast.Parameter.EMPTY_ARRAY, code);
        closure.setVariableScope(like.getVariableScope().copy());
        closure.setSourcePosition(value);
        return closure;
    }

    private static List<Statement> statements(ClosureExpression body) {
        return body != null && body.getCode() instanceof BlockStatement block ? block.getStatements() : List.of();
    }

    private static Expression expressionOf(Statement statement) {
        if (statement instanceof ExpressionStatement expression) {
            return expression.getExpression();
        }
        return statement instanceof ReturnStatement last ? last.getExpression() : null;
    }

    /** A call of a bare name. {@code a { } b { }} on one line is refused: Groovy reads it as a call on a's result. */
    private static MethodCallExpression asCall(Statement statement) {
        return expressionOf(statement) instanceof MethodCallExpression call
            && call.isImplicitThis() && call.getMethodAsString() != null ? call : null;
    }

    private static List<Expression> arguments(MethodCallExpression call) {
        return call.getArguments() instanceof TupleExpression tuple
            ? new ArrayList<>(tuple.getExpressions()) : List.of(call.getArguments());
    }

    private static ClosureExpression bodyOf(MethodCallExpression call) {
        List<Expression> all = arguments(call);
        return !all.isEmpty() && all.get(all.size() - 1) instanceof ClosureExpression body ? body : null;
    }
}
