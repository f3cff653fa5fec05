//! Labels and selectors.
//!
//! Owns when a selector matches, and an index of labelled objects. Must never decide which object a
//! selector belongs to.

use std::collections::BTreeMap;

use foldhash::{HashMap, HashMapExt};

/// Whether a selector's labels are all among these. A selector without labels selects everything.
pub fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}

/// Labelled objects, to be found by namespace and selector without comparing each of them.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use sidecarta_model::LabelIndex;
///
/// let labels = |app: &str| BTreeMap::from([("app".to_owned(), app.to_owned())]);
/// let (cart, till) = (labels("cart"), labels("till"));
/// let index = LabelIndex::new([("shop", &cart, 1), ("shop", &till, 2), ("bank", &cart, 3)]);
/// assert_eq!(index.selected("shop", Some(&cart)).collect::<Vec<_>>(), [1]);
/// assert_eq!(index.selected("shop", None).collect::<Vec<_>>(), [1, 2]);
/// ```
#[derive(Debug)]
pub struct LabelIndex<'a, T> {
    by_namespace: HashMap<&'a str, LabelledObjects<'a, T>>,
}

/// An object with its labels.
type Labelled<'a, T> = (&'a BTreeMap<String, String>, T);

/// The objects of a namespace, in the order in which they were given.
#[derive(Debug)]
struct LabelledObjects<'a, T> {
    all: Vec<Labelled<'a, T>>,
    /// By key and value of a label.
    by_label: HashMap<&'a str, HashMap<&'a str, Vec<Labelled<'a, T>>>>,
}

impl<'a, T: Copy> LabelIndex<'a, T> {
    /// An index of objects, each with its namespace and labels.
    pub fn new(
        objects: impl IntoIterator<Item = (&'a str, &'a BTreeMap<String, String>, T)>,
    ) -> Self {
        let mut by_namespace: HashMap<&str, LabelledObjects<'_, T>> = HashMap::new();
        for (namespace, labels, object) in objects {
            let of_namespace = by_namespace
                .entry(namespace)
                .or_insert_with(|| LabelledObjects { all: Vec::new(), by_label: HashMap::new() });
            of_namespace.all.push((labels, object));
            for (key, value) in labels {
                let by_value = of_namespace.by_label.entry(key).or_default();
                by_value.entry(value).or_default().push((labels, object));
            }
        }
        Self { by_namespace }
    }

    /// The objects of a namespace that a selector matches, in the order in which they were given.
    /// `None` matches all.
    pub fn selected<'s>(
        &'s self,
        namespace: &str,
        selector: Option<&'s BTreeMap<String, String>>,
    ) -> impl Iterator<Item = T> + use<'a, 's, T> {
        let of_namespace = self.by_namespace.get(namespace);
        let candidates = of_namespace.map_or(&[][..], |objects| objects.candidates(selector));
        let is_selected = move |labels| selector.is_none_or(|s| selects(s, labels));
        candidates.iter().filter(move |(labels, _)| is_selected(labels)).map(|(_, object)| *object)
    }
}

impl<'a, T> LabelledObjects<'a, T> {
    /// The objects with one of the labels of a selector: the label that the fewest objects have.
    fn candidates(&self, selector: Option<&BTreeMap<String, String>>) -> &[Labelled<'a, T>] {
        let with = |(key, value): (&String, &String)| {
            let objects = self.by_label.get(key.as_str()).and_then(|v| v.get(value.as_str()));
            objects.map_or(&[][..], Vec::as_slice)
        };
        let by_labels = selector.into_iter().flatten().map(with);
        by_labels.min_by_key(|objects| objects.len()).unwrap_or(&self.all)
    }
}
