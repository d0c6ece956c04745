package harness;

import java.io.Serializable;
import java.util.AbstractMap;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Iterator;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.Set;

/**
 * Iterators and views that can be saved, in place of Java's own. Jenkins does the same for loops over lists,
 * sets and {@code entrySet()}, but not for loops over a map itself or over a range.
 */
public final class SavableIterators {
    private SavableIterators() {}

    private static final class Cursor<E> implements Iterator<E>, Serializable {
        private static final long serialVersionUID = 1L;

        private final List<E> list;
        private int next;

        private Cursor(List<E> list) {
            this.list = list;
        }

        @Override
        public boolean hasNext() {
            return next < list.size();
        }

        @Override
        public E next() {
            if (!hasNext()) {
                throw new NoSuchElementException();
            }
            return list.get(next++);
        }
    }

    public static <E> Iterator<E> iterator(ArrayList<E> list) {
        return new Cursor<>(list);
    }

    public static <E> Iterator<E> iterator(Set<E> set) {
        return new Cursor<>(new ArrayList<>(set));
    }

    public static <K, V> Collection<Map.Entry<K, V>> entrySet(Map<K, V> map) {
        List<Map.Entry<K, V>> entries = new ArrayList<>();
        map.forEach((key, value) -> entries.add(new AbstractMap.SimpleImmutableEntry<>(key, value)));
        return entries;
    }

    public static <K, V> Set<K> keySet(Map<K, V> map) {
        return new LinkedHashSet<>(map.keySet());
    }

    public static <K, V> Collection<V> values(Map<K, V> map) {
        return new ArrayList<>(map.values());
    }
}
