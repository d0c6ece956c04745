package harness;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import org.jboss.marshalling.AbstractClassResolver;
import org.jboss.marshalling.Marshaller;
import org.jboss.marshalling.MarshallerFactory;
import org.jboss.marshalling.MarshallingConfiguration;
import org.jboss.marshalling.Marshalling;
import org.jboss.marshalling.Unmarshaller;
import org.jboss.marshalling.river.RiverMarshallerFactory;

/** Saves a program and restores it with River, the library that Jenkins uses. */
final class Snapshot {
    private static final MarshallerFactory RIVER = new RiverMarshallerFactory();

    private Snapshot() {}

    /** Saves and restores the program. A local that cannot be saved fails as in Jenkins. */
    static Program roundTrip(Program program, ClassLoader before, ClassLoader after) throws IOException {
        ByteArrayOutputStream saved = new ByteArrayOutputStream();
        try (Marshaller marshaller = RIVER.createMarshaller(configuration(before))) {
            marshaller.start(Marshalling.createByteOutput(saved));
            marshaller.writeObject(program);
            marshaller.finish();
        }
        try (Unmarshaller unmarshaller = RIVER.createUnmarshaller(configuration(after))) {
            unmarshaller.start(Marshalling.createByteInput(new ByteArrayInputStream(saved.toByteArray())));
            Program restored = (Program) unmarshaller.readObject();
            unmarshaller.finish();
            return restored;
        } catch (ClassNotFoundException e) {
            throw new IOException("the saved program names a class that is gone: " + e.getMessage(), e);
        }
    }

    private static MarshallingConfiguration configuration(ClassLoader loader) {
        MarshallingConfiguration configuration = new MarshallingConfiguration();
        configuration.setClassResolver(new AbstractClassResolver(true) {
            @Override
            protected ClassLoader getClassLoader() {
                return loader;
            }
        });
        return configuration;
    }
}
